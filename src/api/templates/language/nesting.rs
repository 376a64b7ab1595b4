//! Limits the nesting of a template. Counts its tokens before the engine parses them. Pure.
//!
//! The parser and the compiler of the engine recurse, so nested constructs use stack. A chain of operators also becomes a
//! tree as deep as the chain is long. Inside a tag, each level of nesting has at least one token, so the number of tokens
//! bounds the depth. Between tags, only blocks nest; an `elif` counts, because the engine nests it in the branch before it.
//! These two limits bound the depth of every template, and the stack holds both at their maximum (`stack.rs`).

use minijinja::machinery::Token;

/// Tokens (names, numbers, texts and signs) in one tag.
const TAG_TOKENS_MAX: usize = 400;
/// Nested blocks. An `elif` counts as one.
const BLOCKS_MAX: usize = 100;

/// The counts after the tokens that were read.
#[derive(Debug, Default)]
pub struct Nesting {
    /// Tokens of the current tag.
    tokens: usize,
    is_statement_next: bool,
    /// The branches of each open block. The engine nests the branches of an `if` in one another.
    branches: Vec<usize>,
}

impl Nesting {
    /// Counts a token. Returns a message if a limit is exceeded.
    pub fn fault_with(&mut self, token: &Token<'_>) -> Option<String> {
        match token {
            Token::TemplateData(_) | Token::VariableStart | Token::BlockStart => self.tokens = 0,
            Token::VariableEnd | Token::BlockEnd => {}
            _ => self.tokens += 1,
        }
        if let Token::Ident(name) = token
            && self.is_statement_next
        {
            self.count_block(name);
        }
        self.is_statement_next = matches!(token, Token::BlockStart);
        if self.tokens > TAG_TOKENS_MAX {
            return Some(format!(
                "a tag has at most {TAG_TOKENS_MAX} names, numbers, texts and signs: split it into several tags, or put \
                 the result into the data"
            ));
        }
        (self.branches.iter().sum::<usize>() > BLOCKS_MAX).then(|| {
            format!(
                "blocks nest at most {BLOCKS_MAX} deep, and each elif counts as a block: move the choice into the data"
            )
        })
    }

    /// The name of an end tag is not checked: the engine stops at one that closes the wrong block.
    fn count_block(&mut self, statement: &str) {
        match (statement, self.branches.last_mut()) {
            ("if" | "for" | "with", _) => self.branches.push(1),
            ("elif", Some(branches)) => *branches += 1,
            ("endif" | "endfor" | "endwith", _) => drop(self.branches.pop()),
            _ => {}
        }
    }
}
