//! The page of templates, which is not there yet.

use super::not_there_yet;
use crate::ui::request::PageRequest;
use crate::ui::view::Outcome;

pub async fn list(_request: PageRequest) -> Outcome {
    not_there_yet("Templates")
}

pub async fn create(_request: PageRequest) -> Outcome {
    not_there_yet("Templates")
}

pub async fn show(_request: PageRequest) -> Outcome {
    not_there_yet("Template")
}

pub async fn act(_request: PageRequest) -> Outcome {
    not_there_yet("Template")
}

pub async fn preview(_request: PageRequest) -> Outcome {
    not_there_yet("Preview")
}
