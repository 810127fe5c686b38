//! Which CA keys exist, which of them issues, and which are trusted: the state machine of a rotation, without any key in it.
//!
//! ```text
//! stable(a) --prepare(b)--> prepared(a, b) --activate--> active(a, b) --finish--> stable(b)
//!     ^-------- rollback --------'  ^------- rollback -------'
//! ```
//! While there are two keys both are trusted, both are handed out as roots and both are in new QR codes, so every step can
//! be taken back without shutting anybody out who enrolled or renewed meanwhile.

use serde::{Deserialize, Serialize};

use super::KeyId;

/// The keys of the CA and what each is for. Serialized into the CA's state file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "lowercase")]
pub enum Rotation {
    Stable {
        current: KeyId,
    },
    /// `next` is announced; `current` still issues.
    Prepared {
        current: KeyId,
        next: KeyId,
    },
    /// `current` issues; `previous` is still trusted.
    Active {
        previous: KeyId,
        current: KeyId,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RotationError {
    #[error("cannot {step} while the CA is {phase}: {remedy}")]
    WrongPhase { step: &'static str, phase: &'static str, remedy: &'static str },
    #[error("the next key is already a key of this CA")]
    SameKey,
}

impl Rotation {
    pub fn prepare(self, next: KeyId) -> Result<Self, RotationError> {
        match self {
            Self::Stable { current } if current == next => Err(RotationError::SameKey),
            Self::Stable { current } => Ok(Self::Prepared { current, next }),
            Self::Prepared { .. } | Self::Active { .. } => {
                Err(self.wrong("prepare a rotation", "finish or roll back the one that is under way"))
            }
        }
    }

    pub fn activate(self) -> Result<Self, RotationError> {
        match self {
            Self::Prepared { current, next } => Ok(Self::Active { previous: current, current: next }),
            Self::Stable { .. } => Err(self.wrong("activate", "prepare a rotation first")),
            Self::Active { .. } => Err(self.wrong("activate", "it is done: finish or roll back")),
        }
    }

    pub fn finish(self) -> Result<Self, RotationError> {
        match self {
            Self::Active { current, .. } => Ok(Self::Stable { current }),
            Self::Stable { .. } => Err(self.wrong("finish", "no rotation is under way")),
            Self::Prepared { .. } => Err(self.wrong("finish", "activate the next key first")),
        }
    }

    /// One step back.
    pub fn rollback(self) -> Result<Self, RotationError> {
        match self {
            Self::Prepared { current, .. } => Ok(Self::Stable { current }),
            Self::Active { previous, current } => Ok(Self::Prepared { current: previous, next: current }),
            Self::Stable { .. } => {
                Err(self.wrong("roll back", "no rotation is under way, and a finished one is final"))
            }
        }
    }

    /// The key that signs new certificates.
    pub fn issuing(self) -> KeyId {
        match self {
            Self::Stable { current } | Self::Prepared { current, .. } | Self::Active { current, .. } => current,
        }
    }

    /// The second trusted key, while there is one.
    pub fn other(self) -> Option<KeyId> {
        match self {
            Self::Stable { .. } => None,
            Self::Prepared { next, .. } => Some(next),
            Self::Active { previous, .. } => Some(previous),
        }
    }

    pub fn phase(self) -> &'static str {
        match self {
            Self::Stable { .. } => "stable",
            Self::Prepared { .. } => "prepared",
            Self::Active { .. } => "active",
        }
    }

    /// The key that is trusted now and is not after the step to `after`.
    pub fn drops(self, after: Self) -> Option<KeyId> {
        [Some(self.issuing()), self.other()]
            .into_iter()
            .flatten()
            .find(|key| after.issuing() != *key && after.other() != Some(*key))
    }

    fn wrong(self, step: &'static str, remedy: &'static str) -> RotationError {
        RotationError::WrongPhase { step, phase: self.phase(), remedy }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: KeyId = KeyId([0xa; 8]);
    const B: KeyId = KeyId([0xb; 8]);
    const STABLE_A: Rotation = Rotation::Stable { current: A };
    const STABLE_B: Rotation = Rotation::Stable { current: B };
    const PREPARED: Rotation = Rotation::Prepared { current: A, next: B };
    const ACTIVE: Rotation = Rotation::Active { previous: A, current: B };

    #[test]
    fn every_step_from_every_phase() {
        type Step = fn(Rotation) -> Result<Rotation, RotationError>;
        let prepare: Step = |r| r.prepare(B);
        let table: [(Rotation, Step, Option<Rotation>); 12] = [
            (STABLE_A, prepare, Some(PREPARED)),
            (PREPARED, prepare, None),
            (ACTIVE, prepare, None),
            (STABLE_A, Rotation::activate, None),
            (PREPARED, Rotation::activate, Some(ACTIVE)),
            (ACTIVE, Rotation::activate, None),
            (STABLE_A, Rotation::finish, None),
            (PREPARED, Rotation::finish, None),
            (ACTIVE, Rotation::finish, Some(STABLE_B)),
            (STABLE_A, Rotation::rollback, None),
            (PREPARED, Rotation::rollback, Some(STABLE_A)),
            (ACTIVE, Rotation::rollback, Some(PREPARED)),
        ];
        for (from, step, to) in table {
            assert_eq!(step(from).ok(), to, "from {from:?}");
        }
        assert_eq!(STABLE_B.prepare(B), Err(RotationError::SameKey));
    }

    #[test]
    fn a_key_is_dropped_only_by_finish_and_the_last_rollback() {
        assert_eq!(STABLE_A.drops(PREPARED), None);
        assert_eq!(PREPARED.drops(ACTIVE), None);
        assert_eq!(ACTIVE.drops(PREPARED), None);
        assert_eq!(ACTIVE.drops(STABLE_B), Some(A));
        assert_eq!(PREPARED.drops(STABLE_A), Some(B));
    }

    #[test]
    fn activation_taken_back_and_repeated_issues_from_the_same_keys() {
        let back = ACTIVE.rollback().unwrap();
        assert_eq!(back.issuing(), A);
        assert_eq!(back.activate().unwrap(), ACTIVE);
        assert_eq!(ACTIVE.issuing(), B);
        assert_eq!(ACTIVE.other(), Some(A));
    }
}
