//! A message that was submitted to the own server.

use super::super::facts::{Facts, SubmissionFacts};
use super::super::{Finding, Fix};
use super::{look, one};

pub fn submission(facts: &Facts) -> Vec<Finding> {
    const ID: &str = "self.submission";
    let SubmissionFacts { domain, result } = match look(ID, &"", &facts.submission) {
        Ok(Some(submission)) => submission,
        Ok(None) => return vec![Finding::skipped(ID, "", "nothing was submitted")],
        Err(skipped) => return vec![skipped],
    };
    let name = domain.as_str();
    let verifies = match result {
        Ok(verifies) => verifies,
        Err(reason) => {
            let fix = Fix::text("do what the reply says; the log of the server says more");
            let text = format!("a message of {domain} was not accepted: {reason}");
            return vec![Finding::error(ID, name, text, fix)];
        }
    };
    one(look(ID, domain, verifies).map(|verifies| match verifies {
        Some(true) => {
            Finding::ok(ID, name, format!("a message of {domain} was accepted, and its signature is valid"))
        }
        _ => {
            let fix =
                Fix::command("see which record is wrong", format!("pillarbox doctor --domain {domain}"));
            let text = format!("a message of {domain} was accepted, and its signature is not valid");
            Finding::error(ID, name, text, fix)
        }
    }))
}
