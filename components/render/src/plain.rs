//! The text part of a message that has only HTML: what it says, with the addresses of its links behind their words.

use std::cell::RefCell;
use std::rc::Rc;

use html2text::config;
use html2text::render::TextDecorator;

use crate::guard;

/// HTML above this size gets no text part.
const HTML_BYTES: usize = 1 << 20;
/// Lines are as long as their paragraph: composing a message breaks them reversibly, and an address is never cut.
const WIDTH: usize = 10_000;
/// What a thematic break (`<hr>`, which html2text leaves out) becomes.
const RULER: &str = "<p>----------------------------------------</p><hr";
/// Stand around the number of a link until the words before it are known. Private use: taken out of the HTML first.
const LINK_OPEN: char = '\u{E000}';
const LINK_CLOSE: char = '\u{E001}';

/// The text of a document; `None` where it is too large or too deep to be read cheaply, or says nothing.
pub fn from_html(html: &str) -> Option<String> {
    if html.len() > HTML_BYTES || !guard::is_modest_html(html) {
        return None;
    }
    let clean: String = html
        .chars()
        .map(|c| if c.is_control() && c != '\n' && c != '\t' { ' ' } else { c })
        .filter(|c| *c != LINK_OPEN && *c != LINK_CLOSE)
        .collect();
    let clean = clean.replace("<hr", RULER).replace("<HR", RULER);
    let links = Links::default();
    let text = config::with_decorator(links.clone())
        .raw_mode(true)
        .allow_width_overflow()
        .string_from_read(clean.as_bytes(), WIDTH)
        .ok()?;
    let text = spell_links(&text, &links.all.borrow());
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    let text = lines.join("\n");
    let text = text.trim_matches('\n');
    if text.trim().is_empty() { None } else { Some(format!("{text}\n")) }
}

/// Puts each link's address behind its words, unless the words are the address.
fn spell_links(text: &str, links: &[String]) -> String {
    let mut spelled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(LINK_OPEN) {
        let (number, after) = after.split_once(LINK_CLOSE).unwrap_or((after, ""));
        spelled.push_str(before);
        rest = after;
        let Some(address) = number.parse::<usize>().ok().and_then(|number| links.get(number)) else { continue };
        let shown = address.strip_prefix("mailto:").or(address.strip_prefix("tel:")).unwrap_or(address);
        if shown.is_empty() || shown.starts_with('#') || spelled.ends_with(shown) {
            continue;
        }
        if !spelled.ends_with(|c: char| c.is_whitespace()) && !spelled.is_empty() {
            spelled.push(' ');
        }
        spelled.push('(');
        spelled.push_str(shown);
        spelled.push(')');
    }
    spelled.push_str(rest);
    spelled
}

/// Writes no marks but for links, quotes and lists.
#[derive(Clone, Default)]
struct Links {
    all: Rc<RefCell<Vec<String>>>,
    open: Vec<usize>,
}

impl TextDecorator for Links {
    type Annotation = ();

    fn decorate_link_start(&mut self, url: &str) -> (String, ()) {
        let mut all = self.all.borrow_mut();
        self.open.push(all.len());
        all.push(url.trim().to_owned());
        (String::new(), ())
    }

    fn decorate_link_end(&mut self) -> String {
        self.open.pop().map(|number| format!("{LINK_OPEN}{number}{LINK_CLOSE}")).unwrap_or_default()
    }

    fn decorate_em_start(&self) -> (String, ()) {
        (String::new(), ())
    }

    fn decorate_em_end(&self) -> String {
        String::new()
    }

    fn decorate_strong_start(&self) -> (String, ()) {
        (String::new(), ())
    }

    fn decorate_strong_end(&self) -> String {
        String::new()
    }

    fn decorate_strikeout_start(&self) -> (String, ()) {
        (String::new(), ())
    }

    fn decorate_strikeout_end(&self) -> String {
        String::new()
    }

    fn decorate_code_start(&self) -> (String, ()) {
        (String::new(), ())
    }

    fn decorate_code_end(&self) -> String {
        String::new()
    }

    fn decorate_preformat_first(&self) {}

    fn decorate_preformat_cont(&self) {}

    fn decorate_image(&mut self, _source: &str, title: &str) -> (String, ()) {
        (title.to_owned(), ())
    }

    fn header_prefix(&self, _level: usize) -> String {
        String::new()
    }

    fn quote_prefix(&self) -> String {
        "> ".to_owned()
    }

    fn unordered_item_prefix(&self) -> String {
        "- ".to_owned()
    }

    fn ordered_item_prefix(&self, number: i64) -> String {
        format!("{number}. ")
    }

    fn make_subblock_decorator(&self) -> Links {
        Links { all: self.all.clone(), open: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(html: &str, expect: &str) {
        assert_eq!(from_html(html).as_deref(), Some(expect), "{html}");
    }

    #[test]
    fn says_what_the_html_says() {
        check("<p>Hello <b>Bo</b>,<br>welcome.</p><p>Bye</p>", "Hello Bo,\nwelcome.\n\nBye\n");
        check("<h1>Title</h1><ul><li>a<li>b</ul><ol><li>c</ol>", "Title\n- a\n- b\n1. c\n");
        check("<blockquote>q</blockquote>", "> q\n");
        check("<style>p{color:red}</style><script>x()</script><title>t</title>a", "a\n");
        check("a<hr>b", "a\n\n----------------------------------------\n\nb\n");
        check("<img src=x alt='A logo'>", "A logo\n");
        check("<table><tr><td>one</td><td>two</td></tr></table>", "one\ntwo\n");
    }

    #[test]
    fn links_stay_readable() {
        check("Go <a href='https://x.test/?a=1&amp;b=2'>here</a>.", "Go here (https://x.test/?a=1&b=2).\n");
        check("<a href='https://x.test/'>https://x.test/</a>", "https://x.test/\n");
        check("<a href='mailto:a@x.test'>a@x.test</a>", "a@x.test\n");
        check("<a href='#top'>up</a>", "up\n");
        check(
            "<table><tr><td><a href='https://x.test'>in a cell</a></td></tr></table>",
            "in a cell (https://x.test)\n",
        );
        let long = format!("https://x.test/{}", "a".repeat(1500));
        check(&format!("<a href='{long}'>long</a>"), &format!("long ({long})\n"));
    }

    #[test]
    fn nothing_to_say_and_too_much() {
        for none in ["", "  ", "<img src=x>", "<p></p>"] {
            assert_eq!(from_html(none), None, "{none}");
        }
        assert_eq!(from_html(&"<div>".repeat(1000)), None);
        assert_eq!(from_html(&"a".repeat(HTML_BYTES + 1)), None);
    }

    #[test]
    fn strange_characters_do_no_harm() {
        check("a\u{0}\u{7}b\u{E000}0\u{E001}", "a b0\n");
        check(&format!("<pre>{}</pre>", "\u{1F600}".repeat(3)), "\u{1F600}\u{1F600}\u{1F600}\n");
    }

    #[test]
    fn no_document_panics() {
        let html = "<table><tr><td><a href='x'>ü</a><ul><li><pre> a\n</pre></ul><img alt=x><!-- c --><svg><b></table>";
        for at in (0..html.len()).filter(|at| html.is_char_boundary(*at)) {
            let (before, after) = html.split_at(at);
            for piece in
                ["<", ">", "</", "<table>", "<a href=x>", "&#0;", "\u{200b}", "\u{301}", "<td colspan=999999999>"]
            {
                let _ = from_html(&format!("{before}{piece}{after}"));
                let _ = from_html(&format!("{before}{piece}"));
            }
        }
    }
}
