//! What an account speaks: one of the makers' HTTP interfaces, or SMPP.

use flotilla_providers::{Account, Capabilities, FieldError, Maker, makers, smpp};

#[derive(Clone, Copy)]
pub enum Kind {
    Http(&'static dyn Maker),
    Smpp,
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.capabilities().name)
    }
}

impl Kind {
    pub fn by_name(name: &str) -> Option<Self> {
        #[cfg(test)]
        if let Some(maker) = super::tests::maker::MAKERS.iter().find(|maker| maker.capabilities().name == name) {
            return Some(Self::Http(*maker));
        }
        if name == smpp::CAPABILITIES.name {
            return Some(Self::Smpp);
        }
        makers::by_name(name).map(Self::Http)
    }

    pub fn all() -> Vec<Self> {
        makers::all().iter().map(|maker| Self::Http(*maker)).chain([Self::Smpp]).collect()
    }

    pub fn capabilities(self) -> &'static Capabilities {
        match self {
            Self::Http(maker) => maker.capabilities(),
            Self::Smpp => &smpp::CAPABILITIES,
        }
    }

    pub fn check(self, account: &Account) -> Result<(), FieldError> {
        match self {
            Self::Http(maker) => maker.check(account),
            Self::Smpp => smpp::Settings::from_account(account).map(drop),
        }
    }
}
