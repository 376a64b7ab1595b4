//! The page of webhooks, which is not there yet.

use super::not_there_yet;
use crate::ui::request::PageRequest;
use crate::ui::view::Outcome;

pub async fn list(_request: PageRequest) -> Outcome {
    not_there_yet("Webhooks")
}

pub async fn create(_request: PageRequest) -> Outcome {
    not_there_yet("Webhooks")
}

pub async fn show(_request: PageRequest) -> Outcome {
    not_there_yet("Webhook")
}

pub async fn act(_request: PageRequest) -> Outcome {
    not_there_yet("Webhook")
}

pub async fn delivery(_request: PageRequest) -> Outcome {
    not_there_yet("Delivery")
}

pub async fn replay(_request: PageRequest) -> Outcome {
    not_there_yet("Delivery")
}
