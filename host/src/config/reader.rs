//! Walks one table of the file beside its section of the schema: unknown keys become faults with a hint, values read
//! themselves, and what is left out takes the schema's default.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fault::Collector;
use super::schema::{self, Section};
use super::value::{Setting, Surroundings};

/// What every reader of one file shares.
pub(super) struct Context<'a, 't> {
    pub faults: Collector<'t>,
    pub around: Surroundings<'a>,
}

/// One table of the file, or its absence, with its section of the schema.
pub(super) struct Reader<'d, 'i> {
    section: &'static Section,
    /// As shown in faults: the section's path with names filled in.
    path: String,
    table: Option<&'d DeTable<'i>>,
    /// Where a fault about the table as a whole is shown.
    span: Range<usize>,
}

impl<'d, 'i> Reader<'d, 'i> {
    /// A reader of a table that is there.
    pub(super) fn new(section: &'static Section, path: String, table: &'d DeTable<'i>, span: Range<usize>) -> Self {
        Reader { section, path, table: Some(table), span }
    }

    /// A reader of the table `path` where `value` is one; an absent one reads as all defaults.
    pub(super) fn of(
        context: &mut Context<'_, '_>,
        section: &'static Section,
        path: String,
        value: Option<&'d Spanned<DeValue<'i>>>,
    ) -> Self {
        let absent = |span| Reader { section, path: path.clone(), table: None, span };
        match value.map(|value| (value.get_ref(), value.span())) {
            None => absent(0..0),
            Some((DeValue::Table(table), span)) => Reader::new(section, path, table, span),
            Some((_, span)) => {
                let written = if section.repeats { format!("[[{path}]]") } else { format!("[{path}]") };
                context.faults.add(span.clone(), format!("`{path}` is a table: write {written} on a line of its own"));
                absent(span)
            }
        }
    }

    /// Tells every key that is neither in the schema nor one of the tables below.
    pub(super) fn refuse_unknown(&self, context: &mut Context<'_, '_>, tables: &[&str]) {
        for key in self.table.into_iter().flat_map(DeTable::keys) {
            let name = key.get_ref().as_ref();
            let known = self.section.keys.iter().map(|key| key.name).chain(tables.iter().copied());
            if !known.clone().any(|known| known == name) {
                context.faults.add(key.span(), format!("unknown key `{}`{}", self.full(name), hint(name, known)));
            }
        }
    }

    /// The value as it stands, and the place of its key.
    pub(super) fn raw(&self, name: &str) -> Option<(Range<usize>, &'d Spanned<DeValue<'i>>)> {
        let (key, value) = self.table?.iter().find(|(key, _)| key.get_ref() == name)?;
        Some((key.span(), value))
    }

    /// The value of a key, or its default. `None` where it is wrong (a fault is told) or absent without default.
    pub(super) fn get<T: Setting>(&self, context: &mut Context<'_, '_>, name: &'static str) -> Option<T> {
        let key = self.section.keys.iter().find(|key| key.name == name);
        debug_assert!(key.is_some(), "{} is not in the schema", self.full(name));
        let Some((_, value)) = self.raw(name) else {
            let default = DeValue::parse(key?.default?).ok()?;
            return T::read(&default, &context.around).ok();
        };
        match T::read(value, &context.around) {
            Ok(value) => Some(value),
            Err(wrong) => {
                for (span, text) in wrong {
                    context.faults.add(span, format!("{}: {text}", self.full(name)));
                }
                None
            }
        }
    }

    /// The same for a key that must be there, in a table that is there.
    pub(super) fn demand<T: Setting>(&self, context: &mut Context<'_, '_>, name: &'static str) -> Option<T> {
        if self.table.is_some() && self.raw(name).is_none() {
            let form = self.section.keys.iter().find(|key| key.name == name).map_or("value", |key| key.form);
            let text = match self.path.as_str() {
                "" => format!("`{name}` is missing: write `{name} = …` ({form}) at the top of the file"),
                path => format!("`{path}` lacks `{name}`: write `{name} = …` ({form})"),
            };
            context.faults.add(self.span.clone(), text);
            return None;
        }
        self.get(context, name)
    }

    /// The key with its section, as shown in faults.
    pub(super) fn full(&self, name: &str) -> String {
        match self.path.as_str() {
            "" => name.to_owned(),
            path => format!("{path}.{name}"),
        }
    }
}

/// What an unknown key may have been meant to be: a similar one of the same table, or the same one of another.
pub(super) fn hint<'k>(name: &str, known: impl Iterator<Item = &'k str>) -> String {
    let best = known
        .map(|known| (strsim::damerau_levenshtein(name, known), known))
        .filter(|(distance, known)| *distance <= 1 + known.len() / 4 || (name.len() > 2 && known.starts_with(name)))
        .min();
    if let Some((_, known)) = best {
        return format!(": did you mean `{known}`?");
    }
    let elsewhere = schema::SECTIONS.iter().find(|section| section.keys.iter().any(|key| key.name == name));
    match elsewhere {
        Some(Section { path: "", .. }) => format!(": `{name}` stands at the top of the file"),
        Some(Section { path, repeats: true, .. }) => format!(": `{name}` stands in [[{path}]]"),
        Some(Section { path, .. }) => format!(": `{name}` stands in [{}]", path.replace('*', "NAME")),
        None => ": see docs/configuration.md for all keys".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints() {
        let check =
            |name, expect: &str| assert_eq!(hint(name, ["listen", "listen_tls", "trusted"].into_iter()), expect);
        check("listn", ": did you mean `listen`?");
        check("trustd", ": did you mean `trusted`?");
        check("hostname", ": `hostname` stands at the top of the file");
        check("relay", ": `relay` stands in [[route]]");
        check("servers", ": `servers` stands in [dns]");
        check("validator", ": `validator` stands in [components]");
        check("xyzzy", ": see docs/configuration.md for all keys");
    }
}
