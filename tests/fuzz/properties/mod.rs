//! Properties of the parsers, each as a function that panics if the input violates the property. The parent module provides
//! `mail`, `smtp`, `feedback` and `template_language`: the fuzz crate compiles their sources, the integration tests use the library.

mod address;
mod command;
mod data;
mod feedback;
mod headers;
mod line;
mod proxy;
mod reply;
mod session;
mod template;

pub use address::address;
pub use command::command;
pub use data::data;
pub use feedback::feedback;
pub use headers::headers;
pub use line::line;
pub use proxy::proxy;
pub use reply::reply;
pub use session::session;
pub use template::template;

/// The first octet chooses how the others are split. Returns this octet and the pieces.
fn split(octets: &[u8]) -> (u8, Vec<&[u8]>) {
    let Some((&choice, rest)) = octets.split_first() else { return (0, Vec::new()) };
    // Pieces of 1 to 16 octets, and sometimes a large one.
    let mut state = u32::from(choice).wrapping_mul(2_654_435_761) | 1;
    let (mut pieces, mut left) = (Vec::new(), rest);
    while !left.is_empty() {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let wanted = if state >> 28 == 0 { 5000 } else { 1 + (state >> 24) as usize % 16 };
        let (piece, rest) = left.split_at(wanted.min(left.len()));
        pieces.push(piece);
        left = rest;
    }
    (choice, pieces)
}
