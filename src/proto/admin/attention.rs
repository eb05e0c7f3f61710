//! `attention` of `/api/status`: what somebody should look at, in sentences.

use alloc::borrow::Cow;
use alloc::string::String;
use alloc::vec::Vec;

use super::status::Json;

/// How much it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Something does not work, or will not soon.
    Bad,
    /// Something is not as it should be.
    Warn,
}

/// Something to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attention {
    /// What programs know it by.
    pub code: &'static str,
    /// How much it matters.
    pub severity: Severity,
    /// What it is about: an agent's id, a name, a limit.
    pub subject: Option<String>,
    /// What people read.
    pub text: Cow<'static, str>,
}

impl Attention {
    /// One that is about the process itself.
    pub fn new(code: &'static str, severity: Severity, text: impl Into<Cow<'static, str>>) -> Self {
        Self { code, severity, subject: None, text: text.into() }
    }

    /// It is about this.
    #[must_use]
    pub fn about(mut self, subject: impl Into<String>) -> Self {
        self.subject = Some(subject.into());
        self
    }
}

/// Tells them, the worst first.
pub(super) fn write(json: &mut Json<'_>, mut all: Vec<Attention>) {
    all.sort_by_key(|attention| attention.severity);
    json.key("attention").open('[');
    for Attention { code, severity, subject, text } in all {
        json.open('{');
        json.key("code").text(code);
        json.key("severity").text(match severity {
            Severity::Bad => "bad",
            Severity::Warn => "warn",
        });
        json.key("since_at").null();
        json.key("subject").text_or_null(subject.as_deref().unwrap_or_default());
        json.key("text").text(text);
        json.close('}');
    }
    json.close(']');
}
