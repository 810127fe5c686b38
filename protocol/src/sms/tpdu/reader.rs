//! Octets from the front, each read with the name of its field.

use super::TpduError;

pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(octets: &'a [u8]) -> Self {
        Self(octets)
    }

    pub(super) fn octet(&mut self, field: &'static str) -> Result<u8, TpduError> {
        Ok(self.array::<1>(field)?[0])
    }

    pub(super) fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], TpduError> {
        let (array, rest) = self.0.split_first_chunk().ok_or(TpduError::Truncated { field })?;
        self.0 = rest;
        Ok(*array)
    }

    pub(super) fn octets(&mut self, count: usize, field: &'static str) -> Result<&'a [u8], TpduError> {
        let (octets, rest) = self.0.split_at_checked(count).ok_or(TpduError::Truncated { field })?;
        self.0 = rest;
        Ok(octets)
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.0
    }
}
