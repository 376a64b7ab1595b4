//! Templates: subject and bodies that data is put into. `render` does that.

mod render;

pub use render::{Form, RenderError, render};
