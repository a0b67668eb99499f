//! Fills a template's sources with its variables (Handlebars, strict).
//!
//! Nothing is looked up anywhere: no files, no partials, no helpers but the built-in ones; so a template can only say
//! what its variables say. Output is bounded while it is written, so that loops in loops end in a refusal.

use std::io;

use contract::{CHECK_ATTRIBUTE, Finding, FindingClass, Position, Rendered, RendererInput};
use handlebars::template::{Template, TemplateElement};
use handlebars::{
    Context, Handlebars, Output, RenderContext, RenderError, RenderErrorReason, Renderable, TemplateError,
    TemplateErrorReason, html_escape, no_escape,
};
use serde_json::Value;

use crate::{cache, guard, plain};

/// Sources and variables together, in bytes.
pub const INPUT_BYTES: usize = 1 << 20;
/// Subject, HTML and text together, in bytes.
pub const OUTPUT_BYTES: usize = 5 << 20;

/// Renders subject, HTML and text. The same input gives the same result.
pub fn render(input: RendererInput) -> Result<Rendered, Finding> {
    check_size(&input)?;
    let is_check = input.attributes.iter().any(|(name, _)| name == CHECK_ATTRIBUTE);
    let variables = read_variables(&input.variables)?;
    let context = Context::from(variables);
    let mut left = OUTPUT_BYTES;
    let mut fill = |field, source: Option<String>, escape: fn(&str) -> String| {
        source.map(|source| fill(field, &source, &context, escape, &mut left)).transpose()
    };
    if is_check {
        for (field, source) in [("subject", &input.subject), ("html", &input.html), ("text", &input.text)] {
            source.as_ref().map(|source| compile(field, source)).transpose()?;
        }
        return Ok(Rendered { subject: input.subject, html: input.html, text: input.text, ..Rendered::default() });
    }
    let subject = fill("subject", input.subject, no_escape)?.map(one_line).transpose()?;
    let html = fill("html", input.html, html_escape)?;
    let text = fill("text", input.text, no_escape)?;

    let mut warnings = Vec::new();
    let text = match (text, &html) {
        (None, Some(html)) => {
            let text = plain::from_html(html);
            if text.is_none() {
                warnings.push("no text part could be made from the HTML: give `text` too".to_owned());
            }
            text
        }
        (text, _) => text,
    };
    Ok(Rendered { subject, html, text, warnings, attributes: Vec::new() })
}

fn check_size(input: &RendererInput) -> Result<(), Finding> {
    let sources = [&input.subject, &input.html, &input.text];
    if input.html.is_none() && input.text.is_none() {
        return Err(refuse("html", "a template needs `html` or `text`", None));
    }
    let bytes =
        sources.iter().filter_map(|source| source.as_ref()).map(String::len).sum::<usize>() + input.variables.len();
    if bytes > INPUT_BYTES {
        let text = format!("template and variables have {bytes} bytes together: at most {INPUT_BYTES} are allowed");
        return Err(refuse("html", &text, None));
    }
    Ok(())
}

fn read_variables(json: &str) -> Result<Value, Finding> {
    if json.trim().is_empty() {
        return Ok(Value::Object(serde_json::Map::new()));
    }
    match serde_json::from_str(json) {
        Ok(variables @ Value::Object(_)) => Ok(variables),
        Ok(_) => Err(refuse("variables", "the variables must be a JSON object", None)),
        Err(error) => {
            let position = Position { line: guard::count(error.line()), column: guard::count(error.column()) };
            Err(refuse("variables", &format!("the variables are not JSON: {error}"), Some(position)))
        }
    }
}

fn fill(
    field: &str,
    source: &str,
    context: &Context,
    escape: fn(&str) -> String,
    left: &mut usize,
) -> Result<String, Finding> {
    let template = cache::template(source, |source| compile(field, source))?;

    let mut registry = Handlebars::new();
    registry.set_strict_mode(true);
    registry.register_escape_fn(escape);
    let mut output = Bounded { text: String::new(), left: *left, overflowed: false };
    let result = template.render(&registry, context, &mut RenderContext::new(None), &mut output);
    *left = output.left;
    match result {
        Ok(()) => Ok(output.text),
        Err(error) if output.overflowed => {
            let text = format!("the rendered template is larger than {OUTPUT_BYTES} bytes");
            Err(refuse(field, &text, place(error.line_no, error.column_no)))
        }
        Err(error) => Err(failure(field, &error)),
    }
}

/// Reads a source that is cheap enough to be read.
fn compile(field: &str, source: &str) -> Result<Template, Finding> {
    guard::check_template(source).map_err(|(text, position)| refuse(field, &text, Some(position)))?;
    let template = Template::compile(source).map_err(|error| syntax(field, source, &error))?;
    no_partials(&template).map_err(|position| {
        refuse(field, "partials and decorators (`{{> …}}`, `{{#*…}}`) are not available", Some(position))
    })?;
    Ok(template)
}

/// A subject is one line: line ends around it are its source's, one inside would be another header field.
fn one_line(subject: String) -> Result<String, Finding> {
    let line = subject.trim();
    if line.contains(['\r', '\n']) {
        return Err(refuse("subject", "the rendered subject holds a line break", None));
    }
    Ok(line.to_owned())
}

/// The place of the first partial or decorator, at any depth.
fn no_partials(template: &Template) -> Result<(), Position> {
    for (index, element) in template.elements.iter().enumerate() {
        let inner = match element {
            TemplateElement::HelperBlock(block) => [block.template.as_ref(), block.inverse.as_ref()],
            TemplateElement::RawString(_)
            | TemplateElement::HtmlExpression(_)
            | TemplateElement::Expression(_)
            | TemplateElement::Comment(_) => [None, None],
            _ => {
                let mapping = template.mapping.get(index);
                return Err(mapping.and_then(|at| place(Some(at.0), Some(at.1))).unwrap_or_default());
            }
        };
        for template in inner.into_iter().flatten() {
            no_partials(template)?;
        }
    }
    Ok(())
}

fn syntax(field: &str, source: &str, error: &TemplateError) -> Finding {
    let at = error.pos().and_then(|(line, column)| place(Some(line), Some(column)));
    let (what, at) = match error.reason() {
        // The parser's own words name the rules of its grammar and the place where it gave up.
        TemplateErrorReason::InvalidSyntax(_) => match guard::unpaired(source) {
            Some((what, position)) => (what, Some(position)),
            None => ("the tag here is not one of Handlebars: `{{name}}`, `{{#if name}}`, `{{/if}}`".to_owned(), at),
        },
        reason => (reason.to_string(), at),
    };
    refuse(field, &format!("the template cannot be read: {what}"), at)
}

fn failure(field: &str, error: &RenderError) -> Finding {
    let text = match error.reason() {
        RenderErrorReason::MissingVariable(Some(name)) => format!("the variable `{name}` is missing"),
        RenderErrorReason::MissingVariable(None) => "a variable is missing".to_owned(),
        RenderErrorReason::HelperNotFound(name) => format!("there is no helper `{name}`"),
        reason => reason.to_string(),
    };
    refuse(field, &text, place(error.line_no, error.column_no))
}

fn place(line: Option<usize>, column: Option<usize>) -> Option<Position> {
    Some(Position { line: guard::count(line?), column: guard::count(column?) })
}

fn refuse(field: &str, text: &str, position: Option<Position>) -> Finding {
    Finding {
        class: FindingClass::Template,
        text: text.to_owned(),
        status: None,
        field: Some(field.to_owned()),
        position,
    }
}

/// Collects output up to a limit.
struct Bounded {
    text: String,
    left: usize,
    overflowed: bool,
}

impl Output for Bounded {
    fn write(&mut self, piece: &str) -> Result<(), io::Error> {
        match self.left.checked_sub(piece.len()) {
            Some(left) => {
                self.left = left;
                self.text.push_str(piece);
                Ok(())
            }
            None => {
                self.overflowed = true;
                Err(io::Error::other("too much output"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn input(subject: &str, html: &str, text: &str, variables: &str) -> RendererInput {
        let some = |source: &str| (!source.is_empty()).then(|| source.to_owned());
        RendererInput {
            id: None,
            subject: some(subject),
            html: some(html),
            text: some(text),
            variables: variables.to_owned(),
            attributes: vec![],
        }
    }

    /// Renders a text source alone.
    fn text(source: &str, variables: &str) -> Result<String, Finding> {
        render(input("", "", source, variables)).map(|rendered| rendered.text.unwrap())
    }

    fn check(source: &str, variables: &str, expect: &str) {
        assert_eq!(text(source, variables).as_deref(), Ok(expect), "{source}");
    }

    fn check_refused(source: &str, variables: &str, words: &str, at: Option<(u32, u32)>) {
        let finding = text(source, variables).unwrap_err();
        assert!(finding.text.contains(words), "{source}: {}", finding.text);
        assert_eq!(finding.class, FindingClass::Template);
        assert_eq!(finding.position.map(|position| (position.line, position.column)), at, "{source}: {}", finding.text);
    }

    #[test]
    fn fills_in() {
        check("Hi {{name}}!", r#"{"name":"Bo"}"#, "Hi Bo!");
        check("{{#each items}}{{@index}}:{{this.n}} {{/each}}", r#"{"items":[{"n":1},{"n":"a"}]}"#, "0:1 1:a ");
        check("{{#if a}}yes{{else}}no{{/if}}", r#"{"a":false}"#, "no");
        check("{{a.b.[0]}} {{lookup a 'c'}}", r#"{"a":{"b":[7],"c":8}}"#, "7 8");
        check("{{n}} {{f}} {{t}} {{z}}|", r#"{"n":20,"f":1.5,"t":true,"z":null}"#, "20 1.5 true |");
        check("none", "", "none");
        check("{{#if a}}yes{{else}}no{{/if}}", "{}", "no");
    }

    #[test]
    fn a_check_asks_for_the_syntax_alone() {
        let check = |subject: &str, html: &str| {
            let attributes = vec![(CHECK_ATTRIBUTE.to_owned(), "1".to_owned())];
            render(RendererInput { attributes, ..input(subject, html, "", "{}") })
        };
        assert!(check("Hi {{name}}", "{{#each items}}{{price}}{{/each}}").is_ok());
        let finding = check("Hi", "<p>\n{{#if x}}").unwrap_err();
        assert_eq!((finding.field.as_deref(), finding.position.map(|at| at.line)), (Some("html"), Some(2)));
        assert_eq!(check("{{> a}}", "x").unwrap_err().field.as_deref(), Some("subject"));
    }

    #[test]
    fn html_is_escaped_and_nothing_else_is() {
        let rendered = render(input("{{a}}", "<p>{{a}} {{{a}}}</p>", "{{a}}", r#"{"a":"<b>&\"</b>"}"#)).unwrap();
        assert_eq!(rendered.subject.as_deref(), Some("<b>&\"</b>"));
        assert_eq!(rendered.html.as_deref(), Some("<p>&lt;b&gt;&amp;&quot;&lt;/b&gt; <b>&\"</b></p>"));
        assert_eq!(rendered.text.as_deref(), Some("<b>&\"</b>"));
    }

    #[test]
    fn text_is_made_from_html() {
        let rendered = render(input("", "<p>Hi {{n}}</p>", "", r#"{"n":"Bö"}"#)).unwrap();
        assert_eq!(rendered.text.as_deref(), Some("Hi Bö\n"));
        assert!(rendered.warnings.is_empty());
        let rendered = render(input("", "<img src=x>", "", "{}")).unwrap();
        assert_eq!((rendered.text, rendered.warnings.len()), (None, 1));
    }

    #[test]
    fn a_missing_variable_is_named() {
        check_refused("a\nb {{ name }}", "{}", "`name` is missing", Some((2, 3)));
        check_refused("{{#each items}}{{price}}{{/each}}", r#"{"items":[{}]}"#, "`price` is missing", Some((1, 16)));
        check_refused("{{order.id}}", r#"{"order":{}}"#, "`order.id` is missing", Some((1, 1)));
        check_refused("ü{{#each items}}{{/each}}", "{}", "`items` is missing", Some((1, 2)));
    }

    #[test]
    fn syntax_errors_have_a_place() {
        check_refused("a\n{{#if x}}b\n", r#"{"x":1}"#, "`{{#if}}` is not closed", Some((2, 1)));
        check_refused("{{#if x}}{{#each y}}{{/if}}", r#"{"x":1,"y":[]}"#, "each", Some((1, 21)));
        check_refused("a {{/if}}", "{}", "`{{/if}}` closes a block that was not opened", Some((1, 3)));
        check_refused("a {{ name", "{}", "not closed by `}}`", Some((1, 3)));
        check_refused("a {{}}", "{}", "not one of Handlebars", Some((1, 5)));
        check_refused("{{#if x}}{{/each}}", r#"{"x":1}"#, "each", Some((1, 10)));
        check_refused("{{nosuch 1}}", "{}", "helper `nosuch`", Some((1, 1)));
        check_refused("x {{> other}}", "{}", "not available", Some((1, 3)));
        check_refused("{{#if 1}}\n {{#*inline \"a\"}}{{> a}}{{/inline}}{{/if}}", "{}", "not available", Some((2, 2)));
    }

    #[test]
    fn variables_must_be_an_object() {
        for variables in ["[]", "1", "\"a\"", "null"] {
            check_refused("a", variables, "JSON object", None);
        }
        check_refused("a", "{\n \"a\": }", "not JSON", Some((2, 7)));
        assert_eq!(text("a", "[").unwrap_err().field.as_deref(), Some("variables"));
    }

    #[test]
    fn output_is_bounded() {
        let items = format!("{{\"a\":[{}1]}}", "1,".repeat(999));
        let nested = "{{#each a}}{{#each @root.a}}{{#each @root.a}}0123456789{{/each}}{{/each}}{{/each}}";
        let finding = text(nested, &items).unwrap_err();
        assert!(finding.text.contains("5242880 bytes"), "{}", finding.text);
        let loud = format!("{{{{#each a}}}}{}{{{{/each}}}}", "x".repeat(5200));
        let split = render(input("", &loud, &loud, &items)).unwrap_err();
        assert_eq!(split.field.as_deref(), Some("text"), "the limit is for all of them together");
    }

    #[test]
    fn input_is_bounded() {
        check_refused(&"x".repeat(INPUT_BYTES), "{}", "1048576", None);
        check(&"x".repeat(INPUT_BYTES - 2), "{}", &"x".repeat(INPUT_BYTES - 2));
        check_refused(&"{{#if 1}}".repeat(100_000), "{}", "deep", Some((1, 64 * 9 + 1)));
        assert!(render(input("s", "", "", "{}")).is_err());
    }

    #[test]
    fn a_subject_is_one_line() {
        let subject =
            |source: &str, variables: &str| render(input(source, "", "x", variables)).map(|r| r.subject.unwrap());
        assert_eq!(subject("Hi {{n}}\n", r#"{"n":"Bo"}"#).as_deref(), Ok("Hi Bo"));
        for n in [r"a\r\nBcc: x@y.test", r"a\nb", r"a\rb"] {
            let finding = subject("Hi {{n}}!", &format!("{{\"n\":\"{n}\"}}")).unwrap_err();
            assert_eq!(finding.field.as_deref(), Some("subject"));
        }
    }

    #[test]
    fn no_source_panics() {
        let source = "a {{#each items as |i|}}{{i.[0]}}{{else}}-{{/each}} {{~lookup a (lookup b \"c\")~}} {{!-- x --}} ü {{{raw}}}";
        let variables = r#"{"items":[[1]],"a":{"x":1},"b":{"c":"x"},"raw":"<b>"}"#;
        assert!(text(source, variables).is_ok());
        for at in (0..source.len()).filter(|at| source.is_char_boundary(*at)) {
            let (before, after) = source.split_at(at);
            let mut rest = after.chars();
            rest.next();
            let _ = text(before, variables);
            for piece in ["{{", "}}", "{{#", "{{/", "(", "\"", "|", "~", "\\", "&", "\n", ""] {
                let _ = text(&format!("{before}{piece}{after}"), variables);
                let _ = text(&format!("{before}{piece}{}", rest.as_str()), variables);
            }
        }
    }
}
