//! Provider accounts end to end.
