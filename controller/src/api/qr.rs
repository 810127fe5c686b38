//! Enrolment codes as pictures: SVG for pages, PNG for documents, half blocks for terminals.

use image::{ImageBuffer, ImageFormat, Luma};
use qrcode::render::svg;
use qrcode::{EcLevel, QrCode};

/// Width of one module in a PNG, and of the quiet zone around the symbol in modules (ISO/IEC 18004 asks for four).
const PNG_MODULE_PX: u32 = 8;
const QUIET_MODULES: usize = 4;

#[derive(Debug, thiserror::Error)]
pub enum QrError {
    #[error("the text does not fit into a QR code")]
    TooLong(#[source] qrcode::types::QrError),
    #[error("the picture can not be written")]
    Png(#[source] image::ImageError),
}

/// A symbol that a phone reads off a screen: the lowest error correction keeps the modules large.
fn symbol(text: &str) -> Result<QrCode, QrError> {
    QrCode::with_error_correction_level(text.as_bytes(), EcLevel::L).map_err(QrError::TooLong)
}

pub fn svg(text: &str) -> Result<String, QrError> {
    let white = svg::Color("#ffffff");
    let black = svg::Color("#000000");
    Ok(symbol(text)?.render::<svg::Color<'_>>().min_dimensions(256, 256).light_color(white).dark_color(black).build())
}

pub fn png(text: &str) -> Result<Vec<u8>, QrError> {
    let symbol = symbol(text)?;
    let width = symbol.width();
    let colors = symbol.to_colors();
    let side = (width + 2 * QUIET_MODULES) as u32 * PNG_MODULE_PX;
    let pixel = |x: u32, y: u32| {
        let module = |at: u32| (at / PNG_MODULE_PX) as usize;
        let (x, y) = (module(x).wrapping_sub(QUIET_MODULES), module(y).wrapping_sub(QUIET_MODULES));
        let dark = x < width && y < width && colors[y * width + x] == qrcode::Color::Dark;
        Luma([if dark { 0u8 } else { 255 }])
    };
    let mut bytes = std::io::Cursor::new(Vec::new());
    ImageBuffer::from_fn(side, side, pixel).write_to(&mut bytes, ImageFormat::Png).map_err(QrError::Png)?;
    Ok(bytes.into_inner())
}

/// Two rows of modules in each line. Dark modules are spaces and light ones blocks, since terminals are mostly dark: a
/// symbol on a light ground is what every reader expects.
pub fn text(text: &str) -> Result<String, QrError> {
    let symbol = symbol(text)?;
    let width = symbol.width();
    let colors = symbol.to_colors();
    let span = width + 2 * QUIET_MODULES;
    let light = |x: usize, y: usize| {
        let (x, y) = (x.wrapping_sub(QUIET_MODULES), y.wrapping_sub(QUIET_MODULES));
        x >= width || y >= width || colors[y * width + x] == qrcode::Color::Light
    };
    let mut out = String::with_capacity(span * (span + 2) * 2);
    for y in (0..span).step_by(2) {
        for x in 0..span {
            out.push(match (light(x, y), y + 1 < span && light(x, y + 1)) {
                (true, true) => '█',
                (true, false) => '▀',
                (false, true) => '▄',
                (false, false) => ' ',
            });
        }
        out.push('\n');
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: &str = "FLOTILLA:1:AEQHG3LTFZSXQYLNOBWGKLTPOJTTUNZUGQZQ";

    #[test]
    fn every_form_is_one() {
        let drawn = svg(CODE).unwrap();
        assert!(drawn.contains("<svg") && drawn.contains("</svg>"));
        let picture = image::load_from_memory(&png(CODE).unwrap()).unwrap();
        let modules = QrCode::with_error_correction_level(CODE, EcLevel::L).unwrap().width() + 2 * QUIET_MODULES;
        assert_eq!(picture.width() as usize, modules * PNG_MODULE_PX as usize);
        let lines: Vec<_> = text(CODE).unwrap().lines().map(|line| line.chars().count()).collect();
        assert_eq!(lines.len(), modules.div_ceil(2));
        assert!(lines.iter().all(|width| *width == modules));
    }

    #[test]
    fn the_terminal_shows_the_same_modules_as_the_picture() {
        let symbol = QrCode::with_error_correction_level(CODE, EcLevel::L).unwrap();
        let drawn: Vec<Vec<char>> = text(CODE).unwrap().lines().map(|line| line.chars().collect()).collect();
        for y in 0..symbol.width() {
            for x in 0..symbol.width() {
                let c = drawn[(y + QUIET_MODULES) / 2][x + QUIET_MODULES];
                let upper = (y + QUIET_MODULES).is_multiple_of(2);
                let light = matches!((c, upper), ('█', _) | ('▀', true) | ('▄', false));
                assert_eq!(light, symbol[(x, y)] == qrcode::Color::Light, "{x},{y}");
            }
        }
    }
}
