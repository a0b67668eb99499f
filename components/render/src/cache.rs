//! Compiled templates, kept by their source: the same template is filled over and over, and reading its source costs
//! more than filling it.
//!
//! Nobody can tell but by the clock: a source compiles to the same template every time. An instance of this component
//! never serves two tenants, so none learns what another one sends.

use std::cell::RefCell;
use std::rc::Rc;

use handlebars::template::Template;

/// Sources kept at once: a message has up to three.
const TEMPLATES: usize = 24;

/// Bytes of all sources that are kept. What is compiled is some ten times as large.
const SOURCE_BYTES: usize = 512 << 10;

thread_local! {
    static KEPT: RefCell<Kept> = const { RefCell::new(Kept { entries: Vec::new(), bytes: 0 }) };
}

/// Least recently used first.
struct Kept {
    entries: Vec<(String, Rc<Template>)>,
    bytes: usize,
}

/// The template of a source; `compile` makes it where it is not kept. What cannot be compiled is not kept.
pub fn template<E>(source: &str, compile: impl FnOnce(&str) -> Result<Template, E>) -> Result<Rc<Template>, E> {
    if let Some(found) = KEPT.with_borrow_mut(|kept| kept.find(source)) {
        return Ok(found);
    }
    let template = Rc::new(compile(source)?);
    KEPT.with_borrow_mut(|kept| kept.keep(source, &template));
    Ok(template)
}

impl Kept {
    fn find(&mut self, source: &str) -> Option<Rc<Template>> {
        let at = self.entries.iter().rposition(|(kept, _)| kept == source)?;
        let entry = self.entries.remove(at);
        let template = entry.1.clone();
        self.entries.push(entry);
        Some(template)
    }

    fn keep(&mut self, source: &str, template: &Rc<Template>) {
        if source.len() > SOURCE_BYTES {
            return;
        }
        while self.entries.len() >= TEMPLATES || self.bytes + source.len() > SOURCE_BYTES {
            let (oldest, _) = self.entries.remove(0);
            self.bytes -= oldest.len();
        }
        self.bytes += source.len();
        self.entries.push((source.to_owned(), template.clone()));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::cell::Cell;

    use super::*;

    /// How often each source was compiled, one after the other.
    fn compiled(sources: &[&str]) -> usize {
        let count = Cell::new(0);
        for source in sources {
            let compile = |source: &str| {
                count.set(count.get() + 1);
                Template::compile(source)
            };
            template(source, compile).unwrap();
        }
        count.get()
    }

    #[test]
    fn a_source_is_compiled_once_while_it_is_kept() {
        assert_eq!(compiled(&["a", "b", "a", "b", "a"]), 2);
        let many: Vec<String> = (0..TEMPLATES).map(|number| format!("{{{{x{number}}}}}")).collect();
        let mut many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(compiled(&many), TEMPLATES);
        // The first was used last: the second gives way.
        many.truncate(2);
        assert_eq!(compiled(&[many[0], "new", many[0], many[1]]), 2);
    }

    #[test]
    fn what_is_kept_is_bounded_in_bytes() {
        let half = "x".repeat(SOURCE_BYTES / 2);
        let other = "y".repeat(SOURCE_BYTES / 2);
        assert_eq!(compiled(&[&half, &other, &half, &other]), 2);
        assert_eq!(compiled(&["z", &half, &other]), 3, "one more byte drives one out, and that one the next");
        let huge = "x".repeat(SOURCE_BYTES + 1);
        assert_eq!(compiled(&[&huge, &huge, &half]), 2, "and drives nothing out");
    }

    #[test]
    fn what_is_wrong_is_wrong_again() {
        for _ in 0..2 {
            assert!(template("{{#if}", Template::compile).is_err());
        }
    }
}
