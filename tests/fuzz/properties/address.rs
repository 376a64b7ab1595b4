use pillarbox::mail::{Address, DomainName, ReversePath};

/// The wire form of a parsed address or domain is one safe word of a command, and parses to the same value.
pub fn address(octets: &[u8]) {
    let Ok(text) = std::str::from_utf8(octets) else { return };
    if let Ok(address) = Address::parse(text) {
        let wire = address.to_string();
        assert_eq!(Address::parse(&wire).as_ref(), Ok(&address), "{wire:?}");
        assert_eq!(ReversePath::parse(&wire), Ok(ReversePath::Mailbox(address.clone())));
        assert!(!wire.contains(char::is_control), "{wire:?}");
        assert!(address.local().to_string().len() <= 64 && wire.len() <= 64 + 1 + 255, "{wire:?}");
        assert_eq!(address.needs_smtputf8(), !wire.is_ascii());
        let folded = address.folded();
        assert!(
            Address::parse(&folded).is_err() || Address::parse(&folded).is_ok_and(|a| a.folded() == folded)
        );
    }
    if let Ok(name) = DomainName::parse(text) {
        assert!(name.as_str().is_ascii() && !name.as_str().contains(|c: char| c.is_ascii_uppercase()));
        assert_eq!(DomainName::parse(name.as_str()).as_ref(), Ok(&name));
        for ancestor in name.ancestors().filter_map(|ancestor| DomainName::parse(ancestor).ok()) {
            assert!(name.is_at_or_under(&ancestor));
            // Ownership depends on whole labels.
            let longer = DomainName::parse(&format!("x{name}"));
            assert!(
                longer.is_err()
                    || ancestor != name
                    || longer.is_ok_and(|longer| !longer.is_at_or_under(&name))
            );
        }
    }
}
