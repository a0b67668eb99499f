//! A validator: which attachments may go out, by type, name and size.

wit_bindgen::generate!({ path: "wit", world: "validate-stage", generate_all });

use exports::posthaste::validator::validator::{Acceptance, Guest, StageError, ValidatorInput, Wants};
use posthaste::types::types::{Disposition, Finding, FindingClass, Part};

/// Endings of file names that receivers refuse, whatever their type says.
const FORBIDDEN_ENDINGS: &[&str] =
    &["bat", "cmd", "com", "cpl", "exe", "hta", "iso", "jar", "js", "jse", "lnk", "msi", "ps1", "scr", "vbs", "wsf"];

/// Types of programs.
const FORBIDDEN_TYPES: &[&str] =
    &["application/x-msdownload", "application/x-msdos-program", "application/x-sh", "application/hta"];

/// Of one attachment, and of all attachments of a message.
const ONE_BYTES: u64 = 10 << 20;
const ALL_BYTES: u64 = 20 << 20;

/// From here on a link would be kinder.
const LARGE_BYTES: u64 = 5 << 20;

struct Component;

impl Guest for Component {
    fn describe() -> Result<Wants, StageError> {
        Ok(Wants { text: false, html: false, raw: false })
    }

    fn validate(input: ValidatorInput) -> Result<Acceptance, StageError> {
        // Every part with a file name counts: some programs offer an inline one to be opened too.
        let is_file = |part: &&Part| part.file_name.is_some() || matches!(part.disposition, Disposition::Attachment);
        let files: Vec<&Part> = input.parts.iter().filter(is_file).collect();
        for (number, part) in files.iter().enumerate() {
            check(part).map_err(|(class, text)| refuse(class, text, format!("attachments[{number}]")))?;
        }
        let all: u64 = files.iter().map(|part| part.size_bytes).sum();
        if all > ALL_BYTES {
            let text = format!("the attachments have {all} bytes together: at most {ALL_BYTES} are allowed");
            return Err(refuse(FindingClass::TooLarge, text, "attachments".to_owned()));
        }
        let warnings = match all > LARGE_BYTES {
            true => vec![format!("the attachments have {all} bytes: a link is kinder to the receiver")],
            false => vec![],
        };
        Ok(Acceptance { warnings, attributes: vec![("attachments".to_owned(), files.len().to_string())] })
    }
}

fn check(part: &Part) -> Result<(), (FindingClass, String)> {
    let name = part.file_name.as_deref().unwrap_or("an attachment without a name");
    // `report.pdf.exe.` is opened as `report.pdf.exe`.
    let clean = name.trim_end_matches(|c: char| c == '.' || c.is_whitespace());
    let ending = clean.rsplit_once('.').map_or("", |(_, ending)| ending).to_ascii_lowercase();
    if FORBIDDEN_ENDINGS.contains(&ending.as_str()) || FORBIDDEN_TYPES.contains(&part.content_type.as_str()) {
        let text = format!("{name} ({}) is a program: send a link to it instead", part.content_type);
        return Err((FindingClass::Policy, text));
    }
    if part.size_bytes > ONE_BYTES {
        let text = format!("{name} has {} bytes: at most {ONE_BYTES} are allowed", part.size_bytes);
        return Err((FindingClass::TooLarge, text));
    }
    Ok(())
}

fn refuse(class: FindingClass, text: String, field: String) -> StageError {
    StageError::Refused(Finding { class, text, status: None, field: Some(field), position: None })
}

export!(Component);
