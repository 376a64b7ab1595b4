//! What of Jinja is not in the language of templates, told from the tokens before the engine sees them. Pure.

use minijinja::machinery::{Token, WhitespaceConfig, tokenize};
use minijinja::syntax::SyntaxConfig;

use super::nesting::Nesting;
use super::{RenderError, filters};

/// The statements of the language.
const STATEMENTS: &[&str] = &["if", "elif", "else", "endif", "for", "endfor", "with", "endwith"];

/// Refuses what could make much of little, a text doubled thirty times fills the memory, what reads without paying, and
/// what nests too deep.
pub fn check(source: &str) -> Result<(), RenderError> {
    let (mut reader, mut nesting) = (Reader::default(), Nesting::default());
    for token in tokenize(source, false, SyntaxConfig, WhitespaceConfig::default()) {
        let (token, span) = token?;
        if let Some(fault) = nesting.fault_with(&token).or_else(|| reader.fault_of(&token)) {
            return Err(RenderError::at(span.start_line, fault));
        }
        reader.read(token);
    }
    Ok(())
}

/// What an open parenthesis belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Parenthesis {
    /// Nothing: it groups.
    Group,
    /// A filter that takes options by name.
    Options,
    /// `default` or a test.
    Arguments,
    /// Any other call.
    Call,
}

/// What the tokens before this one have opened.
#[derive(Default)]
struct Reader<'a> {
    before: Option<Token<'a>>,
    is_before_not_is: bool,
    is_before_filter: bool,
    is_before_test: bool,
    is_before_field: bool,
    /// Between `for` and its `in`.
    names_item: bool,
    open: Vec<Parenthesis>,
}

impl<'a> Reader<'a> {
    fn fault_of(&self, token: &Token<'a>) -> Option<String> {
        match (&self.before, token) {
            (_, Token::Plus | Token::Mul | Token::Pow | Token::Mod | Token::Tilde) => {
                Some(format!("there is no operator {token} in templates: put the result into the data"))
            }
            (_, Token::BraceOpen) => Some("a template has no literals of maps: put it into the data".into()),
            (_, Token::Colon) => Some("a template has no slices: put the part into the data".into()),
            (Some(Token::Ident(name)), Token::BracketOpen) if is_operator(name) => Some(NO_LISTS.into()),
            (Some(Token::Ident(_) | Token::ParenClose | Token::BracketClose), Token::BracketOpen) => None,
            (_, Token::BracketOpen) => Some(NO_LISTS.into()),
            // Between parentheses that belong to no call it makes a list.
            (_, Token::Comma) if self.open.last() == Some(&Parenthesis::Group) => Some(NO_LISTS.into()),
            // What is named becomes a map: options are not handed on, anything else might be, with maps in maps.
            (_, Token::Assign) if self.open.last().is_some_and(|last| *last != Parenthesis::Options) => {
                Some("only options of filters have names in a template".into())
            }
            // For `loop.cycle()` the engine divides by the number of arguments.
            (Some(Token::ParenOpen), Token::ParenClose) => match self.open.last() {
                Some(Parenthesis::Options | Parenthesis::Arguments) => None,
                Some(Parenthesis::Call) => Some("a call needs an argument".into()),
                Some(Parenthesis::Group) | None => Some(NO_LISTS.into()),
            },
            // `loop.changed(loop)` would keep itself for ever.
            (Some(Token::Ident("loop")), token)
                if !self.is_before_field && !matches!(token, Token::Dot | Token::ParenOpen) =>
            {
                Some("`loop` is no value: name one of its fields, as in `loop.index`".into())
            }
            (Some(Token::BlockStart), Token::Ident(name)) if !STATEMENTS.contains(name) => Some(format!(
                "there is no statement {name} in templates; there are {}",
                STATEMENTS.join(", ")
            )),
            (Some(Token::Pipe), Token::Ident(name)) if !filters::names().any(|known| known == *name) => {
                let names: Vec<_> = filters::names().collect();
                Some(format!("there is no filter {name} in templates; there are {}", names.join(", ")))
            }
            (before, Token::Ident("in")) if !self.may_be_in(before.as_ref()) => {
                Some("there is no operator in in templates: write `a is in b` or `a is not in b`".into())
            }
            _ => None,
        }
    }

    /// The word of a loop, of the test, or the name of a field.
    fn may_be_in(&self, before: Option<&Token<'a>>) -> bool {
        match before {
            Some(Token::Ident("is") | Token::Dot) => true,
            Some(Token::Ident("not")) => self.is_before_not_is,
            _ => self.names_item,
        }
    }

    fn read(&mut self, token: Token<'a>) {
        match (&self.before, &token) {
            (Some(Token::BlockStart), Token::Ident("for")) => self.names_item = true,
            (_, Token::Ident("in")) => self.names_item = false,
            (_, Token::Ident("not")) => {
                self.is_before_not_is = matches!(self.before, Some(Token::Ident("is")))
            }
            (_, Token::ParenOpen) => self.open.push(self.opened()),
            (_, Token::ParenClose) => drop(self.open.pop()),
            _ => {}
        }
        self.is_before_test = match &self.before {
            Some(Token::Ident("is")) => true,
            Some(Token::Ident("not")) => self.is_before_not_is,
            _ => false,
        };
        self.is_before_filter = matches!(self.before, Some(Token::Pipe));
        self.is_before_field = matches!(self.before, Some(Token::Dot));
        self.before = Some(token);
    }

    /// What a parenthesis belongs to that opens here.
    fn opened(&self) -> Parenthesis {
        match &self.before {
            // It hands on what it is given.
            Some(Token::Ident("default" | "d")) if self.is_before_filter => Parenthesis::Arguments,
            Some(Token::Ident(_)) if self.is_before_filter => Parenthesis::Options,
            Some(Token::Ident(name)) if is_operator(name) => Parenthesis::Group,
            Some(Token::Ident(_)) if self.is_before_test => Parenthesis::Arguments,
            Some(Token::Ident(_)) => Parenthesis::Call,
            _ => Parenthesis::Group,
        }
    }
}

const NO_LISTS: &str = "a template has no literals of lists: put it into the data";

/// Words after which an expression begins.
fn is_operator(name: &str) -> bool {
    ["if", "elif", "else", "in", "and", "or", "not", "is", "for", "with"].contains(&name)
}
