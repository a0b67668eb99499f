//! Refuses sources that are cheap to write and dear to read: deep nesting (the parser, the tree and the renderer all
//! recurse) and floods of tags. Runs before the parser and counts a little too much rather than too little.

use contract::Position;

/// Blocks inside blocks, links of an `else if` chain included.
const BLOCK_DEPTH: usize = 64;
/// Brackets inside brackets of one tag: subexpressions and literals.
const BRACKET_DEPTH: usize = 16;
/// Tags of one source.
const TAGS: usize = 10_000;
/// Tags of one source times its bytes. The parser counts lines from the top for each tag: at this size, for about a
/// second.
const TAGS_TIMES_BYTES: usize = 400_000_000;

/// Checks a Handlebars source. The error says what is too much and where.
pub fn check_template(source: &str) -> Result<(), (String, Position)> {
    // One entry a block: how many `else` branches it has so far.
    let mut blocks: Vec<usize> = Vec::new();
    let mut depth = 0usize;
    let mut at = 0;
    let mut tags = 0;
    while let Some(found) = source.get(at..).and_then(|rest| rest.find("{{")) {
        let start = at + found;
        let tag = source[start..].trim_start_matches('{').trim_start_matches('~').trim_start();
        let inner = source.len() - tag.len();
        tags += 1;
        if tags > TAGS {
            return Err((format!("it has more than {TAGS} tags"), position(source, start)));
        }
        if tags * source.len() > TAGS_TIMES_BYTES {
            let text = format!("it has more than {} tags in {} bytes: too many to be read", tags - 1, source.len());
            return Err((text, position(source, start)));
        }
        let end = match tag.strip_prefix("!--") {
            Some(comment) => comment.find("--}}").map(|length| inner + 3 + length),
            None => tag.find("}}").map(|length| inner + length),
        };
        // What is not closed is the parser's to report.
        let Some(end) = end else { return Ok(()) };
        at = end + 2;
        let escaped = source[..start].ends_with('\\');
        if escaped || tag.starts_with('!') {
            continue;
        }
        let tag = &source[inner..end];
        if tag.starts_with(['#', '^']) && tag.len() > 1 || source[start..].starts_with("{{{{") && !tag.starts_with('/')
        {
            blocks.push(0);
            depth += 1;
        } else if tag.starts_with('/') {
            depth = depth.saturating_sub(1 + blocks.pop().unwrap_or(0));
        } else if tag.starts_with("else")
            && tag.trim_end() != "else"
            && let Some(branches) = blocks.last_mut()
        {
            *branches += 1;
            depth += 1;
        }
        if depth > BLOCK_DEPTH {
            return Err((format!("blocks are nested more than {BLOCK_DEPTH} deep"), position(source, start)));
        }
        if bracket_depth(tag) > BRACKET_DEPTH {
            return Err((format!("brackets are nested more than {BRACKET_DEPTH} deep"), position(source, start)));
        }
    }
    Ok(())
}

/// What stands open or closes nothing in a source that the parser gave up on, and where; absent where all is in pairs.
pub fn unpaired(source: &str) -> Option<(String, Position)> {
    let mut open: Vec<(&str, usize)> = Vec::new();
    let mut at = 0;
    while let Some(found) = source.get(at..).and_then(|rest| rest.find("{{")) {
        let start = at + found;
        let tag = source[start..].trim_start_matches('{').trim_start_matches('~').trim_start();
        let close = if tag.starts_with("!--") { "--}}" } else { "}}" };
        let Some(length) = tag.find(close) else {
            return Some((format!("the tag that begins here is not closed by `{close}`"), position(source, start)));
        };
        at = source.len() - tag.len() + length + close.len();
        let name =
            tag.get(1..length).unwrap_or_default().trim_matches(|c: char| c.is_whitespace() || c == '~' || c == '>');
        let name = name.split_whitespace().next().unwrap_or_default();
        if source[..start].ends_with('\\') {
            continue;
        } else if tag.starts_with(['#', '^']) && !name.is_empty() {
            open.push((name, start));
        } else if tag.starts_with('/') {
            let what = match open.pop() {
                Some((opened, _)) if opened.trim_start_matches('*') == name => continue,
                Some((opened, _)) => format!("`{{{{/{name}}}}}` stands where `{{{{/{opened}}}}}` must"),
                None => format!("`{{{{/{name}}}}}` closes a block that was not opened"),
            };
            return Some((what, position(source, start)));
        }
    }
    let (name, start) = open.pop()?;
    Some((format!("the block `{{{{#{name}}}}}` is not closed by `{{{{/{name}}}}}`"), position(source, start)))
}

fn bracket_depth(tag: &str) -> usize {
    let (mut depth, mut deepest) = (0usize, 0);
    for byte in tag.bytes() {
        match byte {
            b'(' | b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// Line and column of a byte of a text, both from 1, columns in characters.
pub fn position(source: &str, at: usize) -> Position {
    let before = source.get(..at).unwrap_or(source);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    Position { line: count(line), column: count(column) }
}

/// A count as the contract has it.
pub fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn ordinary_templates_pass() {
        for source in [
            "",
            "Hello {{name}}, {{{raw}}} {{~#if a~}} x {{~else if b~}} y {{else}} z {{~/if~}}",
            r"\{{#a}} \{{#a}}",
            "{{! {{#if }} {{!-- {{#if a}} --}}",
            "{{#each (lookup (lookup a 'b') \"c\")}}{{this.[0]}}{{/each}}",
            "{{#if a}}{{/if}}".repeat(100).as_str(),
            "{{#if a}}{{else if b}}{{else if c}}{{/if}}".repeat(100).as_str(),
            "{{{{raw}}}} {{#x}} {{{{/raw}}}}",
            "{{",
        ] {
            assert_eq!(check_template(source), Ok(()), "{source}");
        }
    }

    #[test]
    fn excess_is_refused_with_its_place() {
        let check = |source: String, line, column, words: &str| {
            let (text, position) = check_template(&source).unwrap_err();
            assert!(text.contains(words), "{text}");
            assert_eq!(position, Position { line, column });
        };
        check("{{#if a}}\n".repeat(65), 65, 1, "64 deep");
        check(format!("{{{{#if a}}}}{}", "\nü{{else if b}}".repeat(70)), 65, 2, "64 deep");
        check("{{{{a}}}}".repeat(65), 1, 64 * 9 + 1, "64 deep");
        check(format!("{{{{f {}1}}}}", "(f ".repeat(17)), 1, 1, "brackets");
        check("{{a}}".repeat(10_001), 1, 39_996, "too many");
        check("{{a}}".repeat(7_000) + &" ".repeat(30_000), 1, 30_766, "too many");
    }
}
