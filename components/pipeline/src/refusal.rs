//! What the sender is told: one total mapping from a stage's error to an HTTP status and to an SMTP reply.

use contract::{Finding, FindingClass, StageError};
use mail::{EnhancedCode, Reply};

/// Why a submission did not become a message. Nothing is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Final for this message.
    Refused(Finding),
    /// A stage could not tell: try again. The text is for the log alone.
    Unavailable { stage: &'static str, text: String },
}

impl Refusal {
    /// A refusal by a rule of ours rather than by a stage.
    pub fn new(class: FindingClass, field: Option<&str>, text: impl Into<String>) -> Refusal {
        Refusal::Refused(Finding {
            class,
            text: text.into(),
            status: None,
            field: field.map(str::to_owned),
            position: None,
        })
    }

    /// The error of a stage.
    pub fn from_stage(stage: &'static str, error: StageError) -> Refusal {
        match error {
            StageError::Refused(finding) => Refusal::Refused(finding),
            StageError::Unavailable(text) => Refusal::Unavailable { stage, text },
        }
    }

    /// The HTTP status and the error name in Resend's shape.
    pub fn http(&self) -> (u16, &'static str) {
        todo!()
    }

    /// The SMTP reply.
    pub fn reply(&self) -> Reply {
        let _ = EnhancedCode::new(4, 3, 0);
        todo!()
    }

    /// One sentence for the sender: the finding's text with its position, or that the service cannot tell now.
    pub fn text(&self) -> String {
        todo!()
    }
}
