//! The page of keys, which is not there yet.

use super::not_there_yet;
use crate::ui::request::PageRequest;
use crate::ui::view::Outcome;

pub async fn list(_request: PageRequest) -> Outcome {
    not_there_yet("Keys")
}

pub async fn create(_request: PageRequest) -> Outcome {
    not_there_yet("Keys")
}

pub async fn show(_request: PageRequest) -> Outcome {
    not_there_yet("Key")
}

pub async fn act(_request: PageRequest) -> Outcome {
    not_there_yet("Key")
}
