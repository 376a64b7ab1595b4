//! The page of message, which is not there yet.

use super::not_there_yet;
use crate::ui::request::PageRequest;
use crate::ui::view::Outcome;

pub async fn show(_request: PageRequest) -> Outcome {
    not_there_yet("Message")
}

pub async fn act(_request: PageRequest) -> Outcome {
    not_there_yet("Message")
}

pub async fn preview(_request: PageRequest) -> Outcome {
    not_there_yet("Preview")
}

pub async fn raw(_request: PageRequest) -> Outcome {
    not_there_yet("Raw")
}

pub async fn part(_request: PageRequest) -> Outcome {
    not_there_yet("Part")
}
