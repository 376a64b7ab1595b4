use pillarbox::smtp::{LINE_OCTETS_MAX, LineError, LineReader};

/// Any split of the octets gives the same lines, no line contains LF, and the buffer stays within its limit.
pub fn line(octets: &[u8]) {
    let (_, pieces) = super::split(octets);
    let lines = read(&pieces);
    assert_eq!(lines, read(&[octets.get(1..).unwrap_or_default()]));
    assert!(lines.iter().flatten().all(|line| !line.contains(&b'\n') && line.len() + 2 <= LINE_OCTETS_MAX));
}

fn read(pieces: &[&[u8]]) -> Vec<Result<Vec<u8>, LineError>> {
    let (mut reader, mut buffer, mut found) = (LineReader::default(), Vec::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            let (consumed, line) = reader.next(&buffer);
            let line = line.map(|line| line.map(<[u8]>::to_vec));
            buffer.drain(..consumed);
            let Some(line) = line else { break };
            found.push(line);
        }
        assert!(buffer.len() <= LINE_OCTETS_MAX);
    }
    found
}
