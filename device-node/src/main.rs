//! The command line of a node.
fn main() {}
