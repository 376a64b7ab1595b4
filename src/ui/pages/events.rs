//! The page of events, which is not there yet.

use super::not_there_yet;
use crate::ui::request::PageRequest;
use crate::ui::view::Outcome;

pub async fn list(_request: PageRequest) -> Outcome {
    not_there_yet("Events")
}
