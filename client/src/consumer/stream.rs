//! Messages as a stream.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use tokio_util::sync::CancellationToken;

use super::delivery::Delivery;
use super::inbox::Wish;

type Next = Pin<Box<dyn Future<Output = (Source, Option<Delivery>)> + Send>>;

/// The messages of a [`Consumer`](super::Consumer), one after the other. Ends when the consumer is
/// closed. While it is alive at least a batch is kept in stock.
pub struct Deliveries(State);

enum State {
    /// Nobody waits.
    Idle(Source),
    /// Somebody waits.
    Waiting(Next),
    /// The consumer is closed.
    Ended,
}

struct Source {
    wish: Wish<Delivery>,
    stop: CancellationToken,
}

impl Deliveries {
    pub(crate) fn new(wish: Wish<Delivery>, stop: CancellationToken) -> Self {
        Self(State::Idle(Source { wish, stop }))
    }

    /// Waits for the next message; `None` once the consumer is closed. Nothing is lost when the
    /// future is dropped.
    pub async fn next(&mut self) -> Option<Delivery> {
        std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }
}

impl Source {
    async fn next(mut self) -> (Self, Option<Delivery>) {
        let stop = self.stop.clone();
        let taken = stop.run_until_cancelled(self.wish.take(1)).await;
        let delivery = taken.and_then(|mut taken| taken.pop());
        (self, delivery.map(Delivery::handed_out))
    }
}

impl Stream for Deliveries {
    type Item = Delivery;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Delivery>> {
        let state = &mut self.get_mut().0;
        let mut next = match std::mem::replace(state, State::Ended) {
            State::Idle(source) => Box::pin(source.next()),
            State::Waiting(next) => next,
            State::Ended => return Poll::Ready(None),
        };
        match next.as_mut().poll(context) {
            Poll::Pending => {
                *state = State::Waiting(next);
                Poll::Pending
            }
            Poll::Ready((_, None)) => Poll::Ready(None),
            Poll::Ready((source, delivery)) => {
                *state = State::Idle(source);
                Poll::Ready(delivery)
            }
        }
    }
}
