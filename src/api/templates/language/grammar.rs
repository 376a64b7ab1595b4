//! Refuses the constructs of Jinja that templates may not use. Reads the tokens before the engine parses them. Pure.

use minijinja::machinery::{Token, WhitespaceConfig, tokenize};
use minijinja::syntax::SyntaxConfig;

use super::nesting::Nesting;
use super::{RenderError, fault, filters};

/// The statements of the language.
const STATEMENTS: &[&str] = &["if", "elif", "else", "endif", "for", "endfor", "with", "endwith"];

/// Refuses constructs that multiply texts (a text doubled thirty times fills the memory), that read without being charged
/// to the budget, or that nest too deep.
pub fn check(source: &str) -> Result<(), RenderError> {
    let (mut reader, mut nesting) = (Reader::default(), Nesting::default());
    for token in tokenize(source, false, SyntaxConfig, WhitespaceConfig::default()) {
        let (token, span) = token.map_err(|error| fault::describe(&error, source))?;
        if let Some(fault) = nesting.fault_with(&token).or_else(|| reader.fault_of(&token)) {
            return Err(RenderError::at(span.start_line, fault));
        }
        reader.read(token);
    }
    Ok(())
}

/// The kind of an open parenthesis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Parenthesis {
    /// It groups an expression.
    Group,
    /// It holds the options of a filter, which may be named.
    Options,
    /// It holds the arguments of `default` or of a test.
    Arguments,
    /// It holds the arguments of any other call.
    Call,
}

/// The state after the tokens that were read.
#[derive(Default)]
struct Reader<'a> {
    before: Option<Token<'a>>,
    is_before_not_is: bool,
    is_before_filter: bool,
    is_before_test: bool,
    is_before_field: bool,
    /// Whether the reader is between `for` and its `in`.
    names_item: bool,
    open: Vec<Parenthesis>,
}

impl<'a> Reader<'a> {
    fn fault_of(&self, token: &Token<'a>) -> Option<String> {
        match (&self.before, token) {
            (_, Token::Plus | Token::Mul | Token::Pow | Token::Mod | Token::Tilde) => {
                Some(format!("templates have no operator {token}: put the result into the data"))
            }
            (_, Token::BraceOpen) => Some("templates have no map literals: put the map into the data".into()),
            (_, Token::Colon) => Some("templates have no slices: put the part into the data".into()),
            (Some(Token::Ident(name)), Token::BracketOpen) if is_operator(name) => Some(NO_LISTS.into()),
            (Some(Token::Ident(_) | Token::ParenClose | Token::BracketClose), Token::BracketOpen) => None,
            (_, Token::BracketOpen) => Some(NO_LISTS.into()),
            // A comma in a grouping parenthesis makes a list.
            (_, Token::Comma) if self.open.last() == Some(&Parenthesis::Group) => Some(NO_LISTS.into()),
            // Named arguments become a map. A filter keeps no options, but other callees may store the map in another one.
            (_, Token::Assign) if self.open.last().is_some_and(|last| *last != Parenthesis::Options) => {
                Some("named arguments are for filters only: remove the name".into())
            }
            // `loop.cycle()` divides by the number of its arguments.
            (Some(Token::ParenOpen), Token::ParenClose) => match self.open.last() {
                Some(Parenthesis::Options | Parenthesis::Arguments) => None,
                Some(Parenthesis::Call) => Some("this call has no arguments: give at least one".into()),
                Some(Parenthesis::Group) | None => Some(NO_LISTS.into()),
            },
            // `loop.changed(loop)` would make a reference cycle.
            (Some(Token::Ident("loop")), token)
                if !self.is_before_field && !matches!(token, Token::Dot | Token::ParenOpen) =>
            {
                Some("`loop` is not a value: use one of its fields, such as `loop.index`".into())
            }
            (Some(Token::BlockStart), Token::Ident(name)) if !STATEMENTS.contains(name) => {
                Some(format!("templates have no statement {name}: use one of {}", STATEMENTS.join(", ")))
            }
            (Some(Token::Pipe), Token::Ident(name)) if !filters::names().any(|known| known == *name) => {
                let names: Vec<_> = filters::names().collect();
                Some(format!("templates have no filter {name}: use one of {}", names.join(", ")))
            }
            (before, Token::Ident("in")) if !self.may_be_in(before.as_ref()) => {
                Some("templates have no operator `in`: write `a is in b` or `a is not in b`".into())
            }
            _ => None,
        }
    }

    /// Whether `in` is here part of `for`, the name of the test, or the name of a field.
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

    /// The kind of the parenthesis that opens here.
    fn opened(&self) -> Parenthesis {
        match &self.before {
            // `default` returns its argument, so a named one would leave the call.
            Some(Token::Ident("default" | "d")) if self.is_before_filter => Parenthesis::Arguments,
            Some(Token::Ident(_)) if self.is_before_filter => Parenthesis::Options,
            Some(Token::Ident(name)) if is_operator(name) => Parenthesis::Group,
            Some(Token::Ident(_)) if self.is_before_test => Parenthesis::Arguments,
            Some(Token::Ident(_)) => Parenthesis::Call,
            _ => Parenthesis::Group,
        }
    }
}

const NO_LISTS: &str = "templates have no list literals: put the list into the data";

/// Words after which an expression begins.
fn is_operator(name: &str) -> bool {
    ["if", "elif", "else", "in", "and", "or", "not", "is", "for", "with"].contains(&name)
}
