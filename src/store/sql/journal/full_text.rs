//! The full-text index in the forms of both engines. SQLite has FTS5 with a tokenizer; PostgreSQL has `tsvector`, for which
//! words are folded here in the same way.

use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

use super::index::Entry;
use crate::store::Result;
use crate::store::database::{Connection, Engine, params};

/// A lexeme has at most 2,046 octets in PostgreSQL, and a `tsvector` less than a mebibyte. The rest is not found.
const WORD_OCTETS_MAX: usize = 2_000;
const SUBJECT_OCTETS_MAX: usize = 100_000;

/// What a search asks of the index: all of it must match.
pub(super) struct IndexQuery {
    /// Words that stand for whole values.
    pub(super) facets: Vec<String>,
    pub(super) subject: Option<SubjectQuery>,
}

/// Words of a subject.
pub(super) struct SubjectQuery {
    pub(super) words: Vec<String>,
    /// Whether the last word may be the beginning of one.
    pub(super) is_beginning: bool,
}

impl IndexQuery {
    /// The query as the engine reads it.
    pub(super) fn spell(&self, engine: Engine) -> String {
        match engine {
            Engine::Sqlite => {
                let facets = self.facets.iter().map(|facet| format!("facets : {facet}"));
                facets
                    .chain(self.subject.iter().map(SubjectQuery::spell_fts5))
                    .collect::<Vec<_>>()
                    .join(" AND ")
            }
            Engine::Postgres => {
                let facets = self.facets.iter().map(|facet| format!("'{facet}'"));
                let subject = self.subject.iter().flat_map(SubjectQuery::spell_tsquery);
                facets.chain(subject).collect::<Vec<_>>().join(" & ")
            }
        }
    }
}

impl SubjectQuery {
    /// Quotes disable query syntax; a word that the tokenizer splits becomes a phrase.
    pub(super) fn spell_fts5(&self) -> String {
        let quoted: Vec<_> = self.words.iter().map(|word| format!("\"{word}\"")).collect();
        format!("subject : ({}{})", quoted.join(" AND "), if self.is_beginning { "*" } else { "" })
    }

    fn spell_tsquery(&self) -> Vec<String> {
        let phrases = self.words.iter().enumerate().map(|(number, word)| {
            let mut parts: Vec<_> = folded_words(word).map(|part| lexeme(&part)).collect();
            if let Some(last) = parts.last_mut()
                && self.is_beginning
                && number + 1 == self.words.len()
            {
                last.push_str(":*");
            }
            format!("({})", parts.join(" <-> "))
        });
        phrases.filter(|phrase| phrase != "()").collect()
    }
}

/// The condition of a query of `message_search s`; the parameter is an [`IndexQuery`].
pub(super) fn condition(engine: Engine, parameter: usize) -> String {
    match engine {
        Engine::Sqlite => format!("message_search MATCH ?{parameter}"),
        Engine::Postgres => format!("s.doc @@ CAST(CAST(?{parameter} AS TEXT) AS tsquery)"),
    }
}

/// Adds a message to the index of SQLite at its place.
pub(super) fn insert(connection: &Connection, place: i64, entry: &Entry) -> Result<()> {
    let sql = "INSERT INTO message_search (rowid, facets, subject) VALUES (?1, ?2, ?3)";
    connection.prepare_cached(sql)?.execute(params![place, entry.facets.join(" "), entry.subject])?;
    Ok(())
}

/// Adds a message to the index of PostgreSQL, unless it is there or deleted.
pub(super) fn post(connection: &Connection, entry: &Entry) -> Result<()> {
    let sql = "INSERT INTO message_search (message_id, doc) SELECT ?1, CAST(CAST(?2 AS TEXT) AS tsvector)
               WHERE EXISTS (SELECT 1 FROM message WHERE id = ?1) ON CONFLICT (message_id) DO NOTHING";
    let doc = tsvector(&entry.facets, &entry.subject);
    Ok(connection.prepare_cached(sql)?.post(params![entry.id, doc])?)
}

fn tsvector(facets: &[String], subject: &str) -> String {
    let facets = facets.iter().map(|facet| format!("'{facet}'"));
    let subject = &subject[..subject.floor_char_boundary(SUBJECT_OCTETS_MAX)];
    let words = folded_words(subject).enumerate();
    let words = words.map(|(number, word)| format!("{}:{}", lexeme(&word), number + 1));
    facets.chain(words).collect::<Vec<_>>().join(" ")
}

/// A word of a subject as a lexeme, which no facet equals.
fn lexeme(word: &str) -> String {
    format!("'w{}'", &word[..word.floor_char_boundary(WORD_OCTETS_MAX)])
}

/// The words of a text: letters and digits, without case and accents. They have no quotes and backslashes.
fn folded_words(text: &str) -> impl Iterator<Item = String> {
    let plain: String =
        text.nfd().filter(|&letter| !is_combining_mark(letter)).flat_map(char::to_lowercase).collect();
    let words = plain.split(|letter: char| !letter.is_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_owned).collect::<Vec<_>>().into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_spelled_for_each_engine() {
        let subject = SubjectQuery { words: vec!["Grüße".into(), "foo-Ba".into()], is_beginning: true };
        let query = IndexQuery { facets: vec!["xab".into()], subject: Some(subject) };
        assert_eq!(query.spell(Engine::Sqlite), "facets : xab AND subject : (\"Grüße\" AND \"foo-Ba\"*)");
        assert_eq!(query.spell(Engine::Postgres), "'xab' & ('wgruße') & ('wfoo' <-> 'wba':*)");
        assert_eq!(tsvector(&["xab".into()], "It's Ün"), "'xab' 'wit':1 'ws':2 'wun':3");
    }
}
