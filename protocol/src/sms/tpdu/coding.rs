//! TP-DCS, the data coding scheme (3GPP TS 23.038 clause 4).

use crate::sms::Encoding;

/// The octet as it stands in a TPDU; every value means something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct DataCoding(pub u8);

/// Where a receiver shall put the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MessageClass {
    /// Shown at once and not stored (class 0).
    Flash,
    /// In the device (class 1).
    Device,
    /// On the SIM (class 2).
    Sim,
    /// To the equipment behind the device (class 3).
    Terminal,
}

/// The sender asks to show or hide an indication that something waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MessageWaiting {
    pub kind: WaitingKind,
    pub active: bool,
    /// The message itself is worth keeping.
    pub store: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WaitingKind {
    Voicemail,
    Fax,
    Email,
    Other,
}

impl DataCoding {
    /// In the general group (00xx).
    pub fn new(encoding: Encoding, class: Option<MessageClass>) -> Self {
        let alphabet = match encoding {
            Encoding::Gsm7 => 0x00,
            Encoding::Data8 => 0x04,
            Encoding::Ucs2 => 0x08,
        };
        let class = class.map_or(0, |class| {
            0x10 | match class {
                MessageClass::Flash => 0,
                MessageClass::Device => 1,
                MessageClass::Sim => 2,
                MessageClass::Terminal => 3,
            }
        });
        Self(alphabet | class)
    }

    /// What the user data is made of. Reserved values count as the default alphabet, as the standard asks; compressed text
    /// can not be read and counts as data.
    pub fn encoding(self) -> Encoding {
        match self.0 >> 4 {
            0x0..=0x7 if self.is_compressed() => Encoding::Data8,
            0x0..=0x7 => match self.0 >> 2 & 0b11 {
                0b01 => Encoding::Data8,
                0b10 => Encoding::Ucs2,
                _ => Encoding::Gsm7,
            },
            0xe => Encoding::Ucs2,
            0xf if self.0 & 0b100 != 0 => Encoding::Data8,
            _ => Encoding::Gsm7,
        }
    }

    pub fn class(self) -> Option<MessageClass> {
        let has_class = match self.0 >> 4 {
            0x0..=0x7 => self.0 & 0x10 != 0,
            group => group == 0xf,
        };
        has_class.then_some(match self.0 & 0b11 {
            0 => MessageClass::Flash,
            1 => MessageClass::Device,
            2 => MessageClass::Sim,
            _ => MessageClass::Terminal,
        })
    }

    pub fn is_compressed(self) -> bool {
        self.0 < 0x80 && self.0 & 0x20 != 0
    }

    /// The receiver may delete the message once it is read (group 01xx).
    pub fn is_auto_delete(self) -> bool {
        self.0 & 0xc0 == 0x40
    }

    pub fn waiting(self) -> Option<MessageWaiting> {
        let store = match self.0 >> 4 {
            0xc => false,
            0xd | 0xe => true,
            _ => return None,
        };
        let kind = match self.0 & 0b11 {
            0 => WaitingKind::Voicemail,
            1 => WaitingKind::Fax,
            2 => WaitingKind::Email,
            _ => WaitingKind::Other,
        };
        Some(MessageWaiting { kind, active: self.0 & 0b1000 != 0, store })
    }
}
