//! The rules of an agent.
