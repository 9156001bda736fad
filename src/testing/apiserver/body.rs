//! A response body that is written while it is sent.

use hyper::body::{Body, Bytes, Frame};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc;

/// Pieces waiting for the connection; a slow reader holds the writer up.
const DEPTH: usize = 16;

pub struct Chunks(mpsc::Receiver<io::Result<Bytes>>);

/// The writing end.
pub struct Writer {
    pieces: mpsc::Sender<io::Result<Bytes>>,
    /// Bytes until the connection is cut.
    left: Option<usize>,
}

/// A body whose connection is cut after `cut_after` bytes if it is that long.
pub fn chunks(cut_after: Option<usize>) -> (Writer, Chunks) {
    let (pieces, rx) = mpsc::channel(DEPTH);
    (Writer { pieces, left: cut_after }, Chunks(rx))
}

/// A body that is known as a whole.
pub fn whole(text: impl Into<Bytes>) -> Chunks {
    let (tx, rx) = mpsc::channel(1);
    // There is room for one.
    let _ = tx.try_send(Ok(text.into()));
    Chunks(rx)
}

/// A body that never comes.
pub fn lost() -> Chunks {
    let (tx, rx) = mpsc::channel(1);
    let _ = tx.try_send(Err(cut()));
    Chunks(rx)
}

fn cut() -> io::Error {
    io::Error::other("cut")
}

impl Writer {
    /// False once nothing more can be sent.
    pub async fn send(&mut self, text: impl Into<Bytes>) -> bool {
        let mut text = text.into();
        if let Some(left) = &mut self.left {
            if text.len() > *left {
                text.truncate(*left);
                let _ = self.pieces.send(Ok(text)).await;
                self.cut().await;
                return false;
            }
            *left -= text.len();
        }
        self.pieces.send(Ok(text)).await.is_ok()
    }

    /// Cuts the connection: the body stays unfinished.
    pub async fn cut(&self) {
        let _ = self.pieces.send(Err(cut())).await;
    }

    pub async fn closed(&self) {
        self.pieces.closed().await;
    }
}

impl Body for Chunks {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|p| p.map(Frame::data)))
    }
}
