//! The text part of a message that has only HTML: what it says, with the addresses of its links behind their words.
//!
//! The HTML is read tag by tag and never becomes a tree: whatever it is, it costs as much as it is long.

use std::borrow::Cow;
use std::convert::Infallible;
use std::fmt::Write as _;

use html5gum::emitters::callback::{CallbackEmitter, CallbackEvent};
use html5gum::{Span, Tokenizer};

/// HTML above this size gets no text part.
const HTML_BYTES: usize = 1 << 20;
/// Quotes and lists inside each other that are still marked. Each costs a few octets on every line.
const DEPTH: usize = 8;
/// Lines left empty at most, less one.
const BREAKS: usize = 3;
/// What a thematic break (`<hr>`) becomes.
const RULER: &str = "----------------------------------------";

/// The text of a document; `None` where it is too large, or says nothing.
pub fn from_html(html: &str) -> Option<String> {
    if html.len() > HTML_BYTES {
        return None;
    }
    let mut page = Page::default();
    let mut emitter = CallbackEmitter::new(|event: CallbackEvent<'_>, _: Span<()>| -> Option<Infallible> {
        page.read(event);
        None
    });
    // Scripts, styles and titles hold no tags.
    emitter.naively_switch_states(true);
    let Ok(()) = Tokenizer::new_with_emitter(html, emitter).finish();
    page.finish()
}

/// What is written so far, and what stands open.
#[derive(Default)]
struct Page {
    text: String,
    /// Line ends due before the next word.
    breaks: usize,
    /// Whether a space is due before the next word.
    space: bool,
    quotes: usize,
    /// The same of the last line.
    quotes_above: usize,
    /// The number that the next item of each open list has; none where it is not numbered.
    lists: Vec<Option<u32>>,
    /// Stands before the next word, at the beginning of its line.
    marker: Option<String>,
    /// Elements `pre` that stand open.
    verbatim: usize,
    /// The address of the link that stands open.
    link: Option<String>,
    /// The element whose content is not shown, and how many of its name stand open inside each other.
    skipped: Option<(Vec<u8>, usize)>,
    tag: Tag,
}

/// The start tag that is being read.
#[derive(Default)]
struct Tag {
    name: Vec<u8>,
    attribute: Vec<u8>,
    href: String,
    alt: String,
    hidden: bool,
}

impl Page {
    fn read(&mut self, event: CallbackEvent<'_>) {
        match event {
            CallbackEvent::OpenStartTag { name } => {
                let tag = &mut self.tag;
                tag.name.clear();
                tag.name.extend_from_slice(name);
                tag.attribute.clear();
                tag.href.clear();
                tag.alt.clear();
                tag.hidden = false;
            }
            CallbackEvent::AttributeName { name } => {
                self.tag.attribute.clear();
                self.tag.attribute.extend_from_slice(name);
                self.tag.hidden |= name == b"hidden";
            }
            CallbackEvent::AttributeValue { value } => self.tag.take(value),
            CallbackEvent::CloseStartTag { .. } => {
                let tag = std::mem::take(&mut self.tag);
                self.open(&tag);
                // Its buffers serve the next one.
                self.tag = tag;
            }
            CallbackEvent::EndTag { name } => self.close(name),
            CallbackEvent::String { value } if self.skipped.is_none() => self.say(&String::from_utf8_lossy(value)),
            _ => {}
        }
    }

    fn open(&mut self, tag: &Tag) {
        let name = tag.name.as_slice();
        if let Some((skipped, depth)) = &mut self.skipped {
            *depth += usize::from(skipped == name);
            return;
        }
        if (tag.hidden || is_silent(name)) && !is_void(name) {
            self.skipped = Some((name.to_vec(), 1));
            return;
        }
        match name {
            b"br" => self.breaks = (self.breaks + 1).min(BREAKS),
            b"hr" => {
                self.end_line(2);
                self.word(RULER);
                self.end_line(2);
            }
            b"img" if !tag.hidden => self.say(&tag.alt),
            b"a" => {
                self.end_link();
                self.link = Some(tag.href.trim().to_owned());
            }
            b"blockquote" => {
                self.end_line(2);
                self.quotes += 1;
            }
            b"ul" | b"ol" => {
                self.end_line(2);
                self.lists.push((name == b"ol").then_some(1));
            }
            b"li" => {
                self.end_line(1);
                self.marker = Some(match self.lists.last_mut() {
                    Some(Some(number)) => {
                        *number = number.saturating_add(1);
                        format!("{}. ", *number - 1)
                    }
                    _ => "- ".to_owned(),
                });
            }
            b"pre" => {
                self.end_line(2);
                self.verbatim += 1;
            }
            _ => self.end_line(margin(name)),
        }
    }

    fn close(&mut self, name: &[u8]) {
        if let Some((skipped, depth)) = &mut self.skipped {
            if skipped == name {
                *depth -= 1;
                if *depth == 0 {
                    self.skipped = None;
                }
            }
            return;
        }
        match name {
            b"br" => self.breaks = (self.breaks + 1).min(BREAKS),
            b"a" => self.end_link(),
            b"blockquote" => {
                self.end_line(2);
                self.quotes = self.quotes.saturating_sub(1);
            }
            b"ul" | b"ol" => {
                self.lists.pop();
                self.marker = None;
                self.end_line(2);
            }
            b"li" => {
                self.marker = None;
                self.end_line(1);
            }
            b"pre" => {
                self.end_line(2);
                self.verbatim = self.verbatim.saturating_sub(1);
            }
            _ => self.end_line(margin(name)),
        }
    }

    /// Writes text as HTML shows it: white space is one space, but for `pre`.
    fn say(&mut self, text: &str) {
        if self.verbatim > 0 {
            return self.say_verbatim(text);
        }
        let mut rest = text;
        while !rest.is_empty() {
            let word = rest.find(is_space).unwrap_or(rest.len());
            if word > 0 {
                self.word(&rest[..word]);
            }
            rest = &rest[word..];
            let space = rest.find(|c| !is_space(c)).unwrap_or(rest.len());
            self.space |= space > 0;
            rest = &rest[space..];
        }
    }

    fn say_verbatim(&mut self, text: &str) {
        for (number, line) in text.split('\n').enumerate() {
            if number > 0 {
                self.breaks += 1;
                self.space = false;
            }
            let line = line.trim_end();
            if !line.is_empty() {
                self.word(line);
            }
        }
    }

    fn word(&mut self, word: &str) {
        let is_plain = |byte: u8| (0x20..0x7f).contains(&byte);
        let word = match word.bytes().all(is_plain) {
            true => Cow::Borrowed(word),
            false => Cow::Owned(word.chars().filter(|c| !is_invisible(*c)).map(visible).collect()),
        };
        if word.is_empty() {
            return;
        }
        if self.breaks > 0 || self.text.is_empty() {
            self.begin_line();
        } else if self.space {
            self.text.push(' ');
        }
        self.space = false;
        self.text.push_str(&word);
    }

    fn begin_line(&mut self) {
        let breaks = if self.text.is_empty() { 0 } else { std::mem::take(&mut self.breaks) };
        self.breaks = 0;
        for empty in (0..breaks).rev() {
            let end = self.text.trim_end_matches(' ').len();
            self.text.truncate(end);
            self.text.push('\n');
            // An empty line belongs to what both its neighbours quote.
            self.quote(if empty > 0 { self.quotes.min(self.quotes_above) } else { self.quotes });
        }
        if breaks == 0 {
            self.quote(self.quotes);
        }
        self.quotes_above = self.quotes;
        // As far in as the words of the items around it; a marker takes the place of the innermost indent.
        let indents = self.lists.len() - usize::from(self.marker.is_some() && !self.lists.is_empty());
        for list in self.lists.iter().take(indents.min(DEPTH)) {
            self.text.push_str(if list.is_some() { "   " } else { "  " });
        }
        if let Some(marker) = self.marker.take() {
            self.text.push_str(&marker);
        }
    }

    fn quote(&mut self, quotes: usize) {
        (0..quotes.min(DEPTH)).for_each(|_| self.text.push_str("> "));
    }

    /// Asks for line ends before whatever comes next: one, or two for an empty line between. Items stand close together.
    fn end_line(&mut self, breaks: usize) {
        if breaks > 0 {
            let breaks = if self.lists.is_empty() { breaks } else { 1 };
            self.breaks = self.breaks.max(breaks);
            self.space = false;
        }
    }

    /// Puts the link's address behind its words, unless they are the address.
    fn end_link(&mut self) {
        let Some(address) = self.link.take() else { return };
        let shown = address.strip_prefix("mailto:").or(address.strip_prefix("tel:")).unwrap_or(&address);
        if shown.is_empty() || shown.starts_with('#') || self.text.ends_with(shown) {
            return;
        }
        // Whatever ended inside the link, its address belongs to its words.
        let (breaks, space) = (std::mem::take(&mut self.breaks), std::mem::replace(&mut self.space, true));
        if self.text.is_empty() || self.text.ends_with(' ') {
            self.breaks = breaks;
        }
        let mut bracketed = String::with_capacity(shown.len() + 2);
        let _ = write!(bracketed, "({shown})");
        self.word(&bracketed);
        (self.breaks, self.space) = (breaks.max(self.breaks), space);
    }

    fn finish(mut self) -> Option<String> {
        self.end_link();
        let end = self.text.trim_end().len();
        self.text.truncate(end);
        if self.text.trim().is_empty() {
            return None;
        }
        self.text.push('\n');
        Some(self.text)
    }
}

impl Tag {
    /// An attribute's value. The first of its name counts (HTML s13.2.5.33).
    fn take(&mut self, value: &[u8]) {
        let text = || String::from_utf8_lossy(value);
        match self.attribute.as_slice() {
            b"href" if self.href.is_empty() => self.href = text().into_owned(),
            b"alt" if self.alt.is_empty() => self.alt = text().into_owned(),
            b"style" => {
                let style: String = text().chars().filter(|c| !c.is_whitespace()).collect();
                self.hidden |= style.to_ascii_lowercase().contains("display:none");
            }
            _ => {}
        }
    }
}

/// Line ends around an element: none, one, or two for an empty line between.
fn margin(name: &[u8]) -> usize {
    match name {
        b"p" | b"h1" | b"h2" | b"h3" | b"h4" | b"h5" | b"h6" | b"dl" => 2,
        b"div" | b"table" | b"caption" | b"thead" | b"tbody" | b"tfoot" | b"tr" | b"td" | b"th" | b"section"
        | b"article" | b"header" | b"footer" | b"main" | b"nav" | b"aside" | b"address" | b"fieldset" | b"form"
        | b"figure" | b"figcaption" | b"center" | b"dt" | b"dd" | b"option" | b"body" | b"html" => 1,
        _ => 0,
    }
}

/// Elements whose content says nothing to a reader.
fn is_silent(name: &[u8]) -> bool {
    matches!(name, b"script" | b"style" | b"title" | b"template" | b"iframe" | b"noembed" | b"noframes" | b"svg")
}

/// Elements without content or end tag (HTML s13.1.2).
fn is_void(name: &[u8]) -> bool {
    matches!(
        name,
        b"area"
            | b"base"
            | b"br"
            | b"col"
            | b"embed"
            | b"hr"
            | b"img"
            | b"input"
            | b"link"
            | b"meta"
            | b"source"
            | b"track"
            | b"wbr"
    )
}

/// White space that HTML shows as one space, and the space that must not be broken at.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\u{c}' | '\u{a0}')
}

/// What senders fill a preview with, and marks for breaking lines.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{34f}' | '\u{200b}' | '\u{2060}' | '\u{feff}')
}

/// Control characters have no place in a text.
fn visible(c: char) -> char {
    if c.is_control() && c != '\t' { ' ' } else { c }
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
        check("  a \n <i> b</i>c&nbsp;&amp;\u{a0} d ", "a bc & d\n");
        check("<div>a</div><div><div>b</div></div>c", "a\nb\nc\n");
        check("a<br><br>b<br></p><p>c", "a\n\nb\n\nc\n");
        check("<head><title>t</title><style>p{color:red}</style></head><script>x('<p>')</script>a", "a\n");
        check("a<hr>b", "a\n\n----------------------------------------\n\nb\n");
        check("<img src=x alt='A logo'>", "A logo\n");
        check("<table><tr><td>one</td><td>two</td></tr></table>", "one\ntwo\n");
        check("<pre>\n a\n\n  b </pre>c", " a\n\n  b\n\nc\n");
    }

    #[test]
    fn quotes_and_lists_are_marked() {
        check("<blockquote>q</blockquote>", "> q\n");
        check("a<blockquote>q<p>r<blockquote>s</blockquote></blockquote>b", "a\n\n> q\n>\n> r\n>\n> > s\n\nb\n");
        check("<h1>Title</h1><ul><li>a<li>b</ul><ol><li>c<li>d</ol>e", "Title\n\n- a\n- b\n\n1. c\n2. d\n\ne\n");
        check("<ul><li>a<br>b<ol><li><p>c</p></ol><li></li></ul>", "- a\n  b\n  1. c\n");
        check(&format!("{}x", "<blockquote>".repeat(1000)), &format!("{}x\n", "> ".repeat(DEPTH)));
    }

    #[test]
    fn what_is_hidden_is_not_said() {
        check("<div style='DISPLAY: none'>pre<div>view</div>x</div>a", "a\n");
        check("<p hidden>no</p><img hidden alt=no>a", "a\n");
        check("a\u{ad}b &#8203;&#847; c", "ab c\n");
    }

    #[test]
    fn links_stay_readable() {
        check("Go <a href='https://x.test/?a=1&amp;b=2'>here</a>.", "Go here (https://x.test/?a=1&b=2).\n");
        check("<a href='https://x.test/'>https://x.test/</a>", "https://x.test/\n");
        check("<a href='mailto:a@x.test'>a@x.test</a>", "a@x.test\n");
        check("<a href='#top'>up</a>", "up\n");
        check("<a href=x><img></a> b", "(x) b\n");
        check("<a href=x><p>a</p></a><a href=y>b", "a (x)\n\nb (y)\n");
        check(
            "<table><tr><td><a href='https://x.test'>in a cell</a></td></tr></table>",
            "in a cell (https://x.test)\n",
        );
        let long = format!("https://x.test/{}", "a".repeat(1500));
        check(&format!("<a href='{long}'>long</a>"), &format!("long ({long})\n"));
    }

    #[test]
    fn nothing_to_say_and_too_much() {
        for none in ["", "  ", "<img src=x>", "<p></p>", "<!-- a -->", "<ul><li></ul>"] {
            assert_eq!(from_html(none), None, "{none}");
        }
        assert_eq!(from_html(&"a".repeat(HTML_BYTES + 1)), None);
    }

    #[test]
    fn strange_characters_do_no_harm() {
        check("a\u{1}\u{7}b", "a  b\n");
        check(&format!("<pre>{}</pre>", "\u{1F600}".repeat(3)), "\u{1F600}\u{1F600}\u{1F600}\n");
    }

    #[test]
    fn it_costs_as_much_as_it_is_long() {
        let deep = "<blockquote><ul><li>".repeat(20_000);
        assert!(from_html(&format!("{deep}a")).is_some_and(|text| text.len() < 200));
        let lines = format!("{deep}{}", "a<br>".repeat(20_000));
        assert!(from_html(&lines).is_some_and(|text| text.len() < 20_000 * 100));
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
