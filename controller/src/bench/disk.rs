//! The disk's own part: how long an append and its fdatasync take where the data folder lies.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;
use std::time::Instant;

use super::report::{Report, median};

const WRITES: usize = 200;
const BYTES: usize = 4096;

/// Median and worst of 200 appends of 4 KiB, each made durable. Microseconds.
pub fn fdatasync_us(folder: &Path) -> io::Result<(f64, f64)> {
    let path = folder.join("fdatasync-probe");
    let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
    let mut times = Vec::with_capacity(WRITES);
    for _ in 0..WRITES {
        let start = Instant::now();
        file.write_all(&[0x5a; BYTES])?;
        file.sync_data()?;
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }
    std::fs::remove_file(&path)?;
    let worst = times.iter().copied().fold(0.0, f64::max);
    Ok((median(&mut times), worst))
}

pub fn add_to(report: &mut Report, folder: &Path) -> io::Result<()> {
    let (typical, worst) = fdatasync_us(folder)?;
    report.figure("disk: fdatasync of 4 KiB, median", typical, "us");
    report.figure("disk: fdatasync of 4 KiB, worst of 200", worst, "us");
    Ok(())
}
