use bytes::Bytes;
use pillarbox::api::parsing::BODY_CHECKS;

const FAULTS_MAX: usize = 20;
const PATH_CHARS_MAX: usize = 200;

/// The first octet chooses the operation. A body of a request is read, or refused with a status of the client and with faults that
/// each name a field, once, without control characters and within their limits.
pub fn body(octets: &[u8]) {
    let Some((&choice, body)) = octets.split_first() else { return };
    let check = BODY_CHECKS[usize::from(choice) % BODY_CHECKS.len()];
    let Err(error) = check(&Bytes::copy_from_slice(body)) else {
        return assert!(serde_json::from_slice::<serde_json::Value>(body).is_ok_and(|value| value.is_object()));
    };
    match error.status().as_u16() {
        400 => assert!(error.fields.is_empty(), "{error:?}"),
        422 => {
            assert!((1..=FAULTS_MAX).contains(&error.fields.len()), "{error:?}");
            let mut paths: Vec<&str> = error.fields.iter().map(|field| field.path.as_str()).collect();
            for field in &error.fields {
                assert!(!field.path.contains(char::is_control) && field.path.chars().count() <= PATH_CHARS_MAX, "{field:?}");
                assert!(!field.message.contains(char::is_control) && !field.message.is_empty(), "{field:?}");
            }
            paths.sort_unstable();
            paths.dedup();
            assert_eq!(paths.len(), error.fields.len(), "{error:?}");
        }
        _ => panic!("{error:?}"),
    }
    assert!(!error.refusal.message.contains(char::is_control), "{error:?}");
}
