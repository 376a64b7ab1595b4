//! How deep the engine would nest for a source, told from the tokens before it sees them. Pure.
//!
//! Its parser, its compiler and the tree between them take stack for each thing inside another, and a chain of operators
//! is a tree as deep as the chain is long. Whatever is written in a tag, nothing nests in it without a token of its own,
//! so no tree is deeper than its tag has tokens. From tag to tag only blocks nest, and an `elif`, which stands
//! inside the branch before it. Two counts thus bound every depth; the stack holds the largest of both at once (`stack.rs`).

use minijinja::machinery::Token;

/// Names, numbers, texts and signs in one tag.
const TAG_TOKENS_MAX: usize = 400;
/// Blocks inside one another, an `elif` counted as one.
const BLOCKS_MAX: usize = 100;

/// What the tokens so far have opened.
#[derive(Debug, Default)]
pub struct Nesting {
    /// Of the tag so far.
    tokens: usize,
    is_statement_next: bool,
    /// For each open block its branches: those of an `if` stand inside one another.
    branches: Vec<usize>,
}

impl Nesting {
    /// Counts a token; what is wrong if it goes too deep.
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
                "a tag has at most {TAG_TOKENS_MAX} names, numbers, texts and signs: divide it into several, or put the \
                 result into the data"
            ));
        }
        (self.branches.iter().sum::<usize>() > BLOCKS_MAX).then(|| {
            format!(
                "at most {BLOCKS_MAX} blocks stand inside one another, each elif counted as one inside the branch before \
                 it: put the choice into the data"
            )
        })
    }

    /// A block that ends where another should is where the engine stops reading, so what is counted after that is of no
    /// consequence.
    fn count_block(&mut self, statement: &str) {
        match (statement, self.branches.last_mut()) {
            ("if" | "for" | "with", _) => self.branches.push(1),
            ("elif", Some(branches)) => *branches += 1,
            ("endif" | "endfor" | "endwith", _) => drop(self.branches.pop()),
            _ => {}
        }
    }
}
