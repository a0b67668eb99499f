//! A request's JSON, read field by field, so that every error names its field.
//!
//! Nothing is copied before it is needed: values stay slices of the request (an attachment is decoded straight out of
//! it). Each reader takes the fields it knows out of an object and at last asks for what is left: unknown fields are
//! errors, and so is a field that stands twice.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// Fields of one object, and elements of one list: many more than any sensible request has.
const ENTRIES: usize = 10_000;

/// What is wrong with a request, in words for whoever wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JsonError {
    /// Not JSON at all; the text holds line and column.
    Syntax(String),
    /// A field is not there. Holds its path.
    Missing(String),
    /// A field is there and wrong: its path, and why.
    Wrong(String, String),
}

/// A value somewhere in the request.
#[derive(Clone, Debug)]
pub struct Value<'a> {
    /// `attachments[2].content`; empty for the request itself.
    pub path: String,
    raw: &'a RawValue,
}

/// An object whose fields are taken out one by one.
#[derive(Debug)]
pub struct Fields<'a> {
    path: String,
    entries: Vec<(Cow<'a, str>, &'a RawValue)>,
}

impl<'a> Fields<'a> {
    /// Reads a whole request, which must be one object.
    pub fn read(body: &'a [u8]) -> Result<Fields<'a>, JsonError> {
        let Entries(entries) = whole(body, '{', "object")?;
        Fields::new(String::new(), entries)
    }

    fn new(path: String, entries: Vec<(Cow<'a, str>, &'a RawValue)>) -> Result<Fields<'a>, JsonError> {
        let mut names: Vec<&str> = entries.iter().map(|(name, _)| name.as_ref()).collect();
        names.sort_unstable();
        if let Some([name, _]) = names.array_windows::<2>().find(|[a, b]| a == b) {
            return Err(JsonError::Wrong(below(&path, name), "the field stands twice".to_owned()));
        }
        Ok(Fields { path, entries })
    }

    /// Takes a field out. `null` is the same as nothing.
    pub fn take(&mut self, name: &str) -> Option<Value<'a>> {
        let at = self.entries.iter().position(|(known, _)| known == name)?;
        let (_, raw) = self.entries.remove(at);
        (raw.get() != "null").then(|| Value { path: below(&self.path, name), raw })
    }

    /// Looks at a field that stays. `null` is the same as nothing.
    pub fn look(&self, name: &str) -> Option<Value<'a>> {
        let (_, raw) = self.entries.iter().find(|(known, _)| known == name)?;
        (raw.get() != "null").then(|| Value { path: below(&self.path, name), raw })
    }

    /// The error about a field that is not there.
    pub fn missing(&self, name: &str) -> JsonError {
        JsonError::Missing(below(&self.path, name))
    }

    /// Takes a field that must be there.
    pub fn need(&mut self, name: &str) -> Result<Value<'a>, JsonError> {
        self.take(name).ok_or_else(|| self.missing(name))
    }

    /// Takes all that is left, in the order of the request.
    pub fn rest(self) -> Vec<(Cow<'a, str>, Value<'a>)> {
        let path = self.path;
        let value = |(name, raw): (Cow<'a, str>, _)| {
            let path = below(&path, &name);
            (name, Value { path, raw })
        };
        self.entries.into_iter().map(value).collect()
    }

    /// Nothing may be left. `known` are the names there are, to help with one that is spelled another way.
    pub fn finish(self, known: &[&str]) -> Result<(), JsonError> {
        let Some((name, _)) = self.entries.first() else { return Ok(()) };
        let plain = |name: &str| name.replace(['_', '-'], "").to_ascii_lowercase();
        let text = match known.iter().find(|known| plain(known) == plain(name)) {
            Some(known) => format!("there is no such field: did you mean `{known}`?"),
            None => "there is no such field".to_owned(),
        };
        Err(JsonError::Wrong(below(&self.path, name), text))
    }
}

impl<'a> Value<'a> {
    /// An error about this value.
    pub fn wrong(&self, text: impl fmt::Display) -> JsonError {
        JsonError::Wrong(self.path.clone(), text.to_string())
    }

    /// The JSON of the value as it stands.
    pub fn source(&self) -> &'a str {
        self.raw.get()
    }

    pub fn is_string(&self) -> bool {
        self.source().starts_with('"')
    }

    pub fn is_list(&self) -> bool {
        self.source().starts_with('[')
    }

    pub fn is_object(&self) -> bool {
        self.source().starts_with('{')
    }

    /// A string, borrowed where nothing in it is escaped.
    pub fn string(&self) -> Result<Cow<'a, str>, JsonError> {
        self.kind(self.is_string(), "a string")?;
        self.parse::<Text<'a>>().map(|Text(text)| text)
    }

    /// A list.
    pub fn list(&self) -> Result<Vec<Value<'a>>, JsonError> {
        self.kind(self.is_list(), "a list")?;
        let Elements(elements) = self.parse()?;
        let value = |(index, raw)| Value { path: format!("{}[{index}]", self.path), raw };
        Ok(elements.into_iter().enumerate().map(value).collect())
    }

    /// A list of bytes, as some SDKs write binary content.
    pub fn bytes(&self) -> Result<Vec<u8>, JsonError> {
        self.kind(self.is_list(), "a list of bytes")?;
        serde_json::from_str(self.source()).map_err(|_| self.wrong("it must be a list of numbers from 0 to 255"))
    }

    /// An object.
    pub fn fields(&self) -> Result<Fields<'a>, JsonError> {
        self.kind(self.is_object(), "an object")?;
        let Entries(entries) = self.parse()?;
        Fields::new(self.path.clone(), entries)
    }

    fn parse<T: Deserialize<'a>>(&self) -> Result<T, JsonError> {
        serde_json::from_str(self.source()).map_err(|error| self.wrong(error))
    }

    fn kind(&self, is: bool, wanted: &str) -> Result<(), JsonError> {
        if is {
            return Ok(());
        }
        let found = match self.source().as_bytes().first() {
            Some(b'"') => "a string",
            Some(b'[') => "a list",
            Some(b'{') => "an object",
            Some(b't' | b'f') => "a boolean",
            Some(b'n') => "null",
            Some(_) | None => "a number",
        };
        Err(self.wrong(format!("it must be {wanted}, not {found}")))
    }
}

/// Reads a whole request that must be one list; the paths of its elements are `[0]`, `[1]`, ….
pub fn list(body: &[u8]) -> Result<Vec<Value<'_>>, JsonError> {
    let Elements(elements) = whole(body, '[', "list")?;
    Ok(elements.into_iter().enumerate().map(|(index, raw)| Value { path: format!("[{index}]"), raw }).collect())
}

/// Reads a whole request, which begins with this character.
fn whole<'a, T: Deserialize<'a>>(body: &'a [u8], first: char, kind: &str) -> Result<T, JsonError> {
    let text = std::str::from_utf8(body).map_err(|error| {
        JsonError::Syntax(format!("the request is not UTF-8: the byte at offset {} is wrong", error.valid_up_to()))
    })?;
    serde_json::from_str(text).map_err(|error| {
        if error.is_data() && !text.trim_start().starts_with(first) {
            return JsonError::Syntax(format!("the request must be a JSON {kind}"));
        }
        JsonError::Syntax(format!("the request is not JSON: {error}"))
    })
}

fn below(path: &str, name: &str) -> String {
    // A name comes from a stranger and goes into an answer.
    let name: String = name.chars().take(64).collect();
    if path.is_empty() { name } else { format!("{path}.{name}") }
}

/// An object's fields in order, values unread.
struct Entries<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Entries<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;

        impl<'de> Visitor<'de> for Collect {
            type Value = Entries<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some((Text(name), raw)) = map.next_entry()? {
                    if entries.len() == ENTRIES {
                        return Err(A::Error::custom(format!("an object has more than {ENTRIES} fields")));
                    }
                    entries.push((name, raw));
                }
                Ok(Entries(entries))
            }
        }

        deserializer.deserialize_map(Collect)
    }
}

/// A list's elements in order, unread.
struct Elements<'a>(Vec<&'a RawValue>);

impl<'de> Deserialize<'de> for Elements<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;

        impl<'de> Visitor<'de> for Collect {
            type Value = Elements<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut elements = Vec::new();
                while let Some(raw) = list.next_element()? {
                    if elements.len() == ENTRIES {
                        return Err(A::Error::custom(format!("a list has more than {ENTRIES} elements")));
                    }
                    elements.push(raw);
                }
                Ok(Elements(elements))
            }
        }

        deserializer.deserialize_seq(Collect)
    }
}

/// A string, borrowed where it can be (serde's own `Cow` never borrows).
struct Text<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;

        impl<'de> Visitor<'de> for Collect {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }

        deserializer.deserialize_str(Collect)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn read(json: &str) -> Fields<'_> {
        Fields::read(json.as_bytes()).unwrap()
    }

    fn check_syntax(body: &[u8], words: &str) {
        match Fields::read(body) {
            Err(JsonError::Syntax(text)) => assert!(text.contains(words), "{text}"),
            other => unreachable!("{other:?}"),
        }
    }

    #[test]
    fn what_is_not_json_has_a_place() {
        check_syntax(b"", "line 1 column 0");
        check_syntax(b"{\n \"a\": 1,\n}", "line 3 column 1");
        check_syntax(b"{\"a\": tru}", "line 1 column 10");
        check_syntax(b"{\"a\": 1} x", "line 1 column 10");
        check_syntax(b"{\"a\": \"\xff\"}", "offset 7");
        check_syntax(b"{\"a\": {\"b\": [1, 2}}", "line 1 column 18");
        for body in ["[]", "1", "\"a\"", "null"] {
            check_syntax(body.as_bytes(), "must be a JSON object");
        }
        let many = format!("{{{}\"z\":1}}", (0..10_001).map(|n| format!("\"{n}\":0,")).collect::<String>());
        check_syntax(many.as_bytes(), "more than 10000 fields");
        check_syntax("[".repeat(200_000).as_bytes(), "must be a JSON object");
        check_syntax(format!("{{\"a\":{}", "[".repeat(200_000)).as_bytes(), "not JSON");
    }

    #[test]
    fn fields_stand_once() {
        assert_eq!(
            Fields::read(br#"{"to":"a","x":1,"t\u006f":"b"}"#).err(),
            Some(JsonError::Wrong("to".to_owned(), "the field stands twice".to_owned()))
        );
        let inner = read(r#"{"a":{"b":1,"b":2}}"#).take("a").unwrap().fields().err();
        assert_eq!(inner, Some(JsonError::Wrong("a.b".to_owned(), "the field stands twice".to_owned())));
    }

    #[test]
    fn strings_are_borrowed() {
        let mut fields = read(r#"{"a":"plain","b":"esc\n\u00e9","c":null,"d":"\ud800"}"#);
        assert!(matches!(fields.take("a").unwrap().string().unwrap(), Cow::Borrowed("plain")));
        assert_eq!(fields.take("b").unwrap().string().unwrap(), "esc\né");
        assert!(fields.take("c").is_none());
        assert!(matches!(fields.take("d").unwrap().string(), Err(JsonError::Wrong(path, _)) if path == "d"));
        assert!(fields.take("e").is_none());
        assert_eq!(fields.finish(&[]), Ok(()));
    }

    #[test]
    fn wrong_types_are_named() {
        let check = |json: &str, wanted: &str, found: &str| {
            let value = read(json).take("a").unwrap();
            let error = match wanted {
                "a string" => value.string().err(),
                "a list" => value.list().err(),
                _ => value.fields().err(),
            };
            let text = format!("it must be {wanted}, not {found}");
            assert_eq!(error, Some(JsonError::Wrong("a".to_owned(), text)), "{json}");
        };
        check(r#"{"a":1}"#, "a string", "a number");
        check(r#"{"a":-1}"#, "a list", "a number");
        check(r#"{"a":[1]}"#, "a string", "a list");
        check(r#"{"a":"x"}"#, "an object", "a string");
        check(r#"{"a":{}}"#, "a list", "an object");
        check(r#"{"a":true}"#, "a string", "a boolean");
    }

    #[test]
    fn paths_lead_to_the_value() {
        let list = read(r#"{"a":[{"b":1}, null]}"#).take("a").unwrap().list().unwrap();
        assert_eq!(list[1].path, "a[1]");
        assert_eq!(list[0].fields().unwrap().take("b").unwrap().path, "a[0].b");
        assert_eq!(list[0].fields().unwrap().need("c").err(), Some(JsonError::Missing("a[0].c".to_owned())));
    }

    #[test]
    fn what_is_left_is_unknown() {
        let check = |name: &str, expect: &str| {
            let json = format!("{{\"{name}\":1}}");
            match read(&json).finish(&["reply_to", "to"]) {
                Err(JsonError::Wrong(path, text)) => assert_eq!((path.as_str(), text.as_str()), (name, expect)),
                other => unreachable!("{other:?}"),
            }
        };
        check("replyTo", "there is no such field: did you mean `reply_to`?");
        check("TO", "there is no such field: did you mean `to`?");
        check("nope", "there is no such field");
    }

    #[test]
    fn lists_of_requests() {
        let values = list(br#" [{"a":1}, 2]"#).unwrap();
        assert_eq!(values[0].fields().unwrap().take("a").unwrap().path, "[0].a");
        assert_eq!(
            values[1].fields().err(),
            Some(JsonError::Wrong("[1]".to_owned(), "it must be an object, not a number".to_owned()))
        );
        for (body, words) in [("{}", "must be a JSON list"), ("[1,]", "line 1 column 4"), ("", "line 1 column 0")] {
            assert!(matches!(list(body.as_bytes()), Err(JsonError::Syntax(text)) if text.contains(words)), "{body}");
        }
    }

    #[test]
    fn bytes() {
        let value = |json: &'static str| read(json).take("a").unwrap().bytes();
        assert_eq!(value(r#"{"a":[37, 0,255]}"#), Ok(vec![37, 0, 255]));
        for json in [r#"{"a":[256]}"#, r#"{"a":[-1]}"#, r#"{"a":[1.5]}"#, r#"{"a":["x"]}"#] {
            assert!(value(json).is_err(), "{json}");
        }
    }
}
