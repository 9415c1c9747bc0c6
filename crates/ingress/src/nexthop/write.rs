//! One system call for many pieces.

use std::io::{self, IoSlice};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

/// Pieces handed to one system call; Linux takes up to 1,024.
const PIECES: usize = 64;

/// Writes all pieces in order. Not safe to cancel: a part may have been written.
pub(crate) async fn write_all(
    stream: &mut (impl AsyncWrite + Unpin),
    pieces: &mut [Bytes],
) -> io::Result<()> {
    let mut first = 0;
    while first < pieces.len() {
        if pieces[first].is_empty() {
            first += 1;
            continue;
        }
        let mut slices = [IoSlice::new(&[]); PIECES];
        let count = pieces.len().saturating_sub(first).min(PIECES);
        for (slice, piece) in slices.iter_mut().zip(&pieces[first..]) {
            *slice = IoSlice::new(piece);
        }
        let mut written = stream.write_vectored(&slices[..count]).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        while written > 0 {
            let taken = written.min(pieces[first].len());
            pieces[first].advance(taken);
            written -= taken;
            if pieces[first].is_empty() {
                first += 1;
            }
        }
    }
    stream.flush().await
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::io::AsyncReadExt as _;

    #[tokio::test]
    async fn every_piece_arrives_in_order() {
        let mut pieces: Vec<Bytes> = (0..300_u32)
            .map(|n| Bytes::from(vec![n as u8; (n % 7) as usize * 100]))
            .collect();
        let expected: Vec<u8> = pieces.iter().flat_map(|piece| piece.to_vec()).collect();
        let (mut near, mut far) = tokio::io::duplex(1000);
        let writer = tokio::spawn(async move { super::write_all(&mut near, &mut pieces).await });
        let mut read = Vec::new();
        far.read_to_end(&mut read).await.unwrap();
        writer.await.unwrap().unwrap();
        assert_eq!(read, expected);
    }
}
