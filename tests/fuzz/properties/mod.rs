//! Properties of what reads foreign input, each as a function that panics if the input violates it. The fuzzer runs them guided by
//! coverage, and the integration tests run them with the same inputs and simple mutations.

/// Panics if the input violates the property.
pub type Property = fn(&[u8]);

macro_rules! properties {
    ($($name:ident),* $(,)?) => {
        $(mod $name;)*

        /// All properties by name.
        pub const ALL: &[(&str, Property)] = &[$((stringify!($name), $name::$name)),*];
    };
}

properties!(
    address, body, command, config, data, email, feedback, form, handshake, headers, inbound, line, parts,
    proxy, query, records, reply, rewrite, session, template, token,
);

/// The property of this name.
pub fn find(name: &str) -> Option<Property> {
    ALL.iter().find(|(known, _)| *known == name).map(|(_, property)| *property)
}

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

/// The octets as the content of a message that a session has accepted: with CRLF line ends only, and without NUL.
fn as_content(octets: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(octets.len());
    for &octet in octets {
        match octet {
            b'\n' => message.extend_from_slice(b"\r\n"),
            b'\r' | 0 => message.push(b' '),
            _ => message.push(octet),
        }
    }
    message
}
