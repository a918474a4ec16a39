//! Where work for the writer goes. Its thread works it off; but a little work that needs no disk is
//! done by a task, if nobody is at the desk: two hand-overs from thread to thread cost several times
//! what it takes to write one message into the page cache.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use qmq_daemon::mailbox::Stopped;
use qmq_model::Clock;
use qmq_store::{Control, Error, StoreReader, StoreWriter};
use tokio::sync::{Notify, oneshot};
use tracing::error;

use crate::inbox::{ActionBatch, ActionDone, Actions, CopyBatch, Inbox, Ordered, SendBatch, Wake};
use crate::metrics::Metrics;
use crate::waiting::Waiting;
use crate::writer::{Rest, Writer};

/// How often in a row the task works off what was brought meanwhile; then it calls the thread.
pub const HELPS_MAX: usize = 4;

/// The writer with its inbox.
pub struct Desk {
    inbox: Arc<Inbox>,
    /// Empty after the end. Whoever lets go of it looks into the inbox again, so that nothing stays
    /// there that came while it was held.
    writer: Mutex<Option<Writer>>,
    /// Whether sends need no disk before they are answered.
    helps_sends: bool,
    /// Something was brought that the thread was not woken for.
    brought: Notify,
    is_closed: AtomicBool,
    /// Nothing was due when the thread was last at it: it may sleep for long, and has to be told of
    /// what others append.
    is_unaware: AtomicBool,
}

impl Desk {
    /// For a store's writing half. Who waits for messages is woken through `waiting`. Starts the
    /// task; the thread is the caller's, see [`Self::run`].
    #[must_use]
    pub fn start(
        store: StoreWriter,
        reader: StoreReader,
        waiting: Arc<Waiting>,
        metrics: Arc<Metrics>,
        clock: Arc<dyn Clock>,
    ) -> Arc<Self> {
        let inbox = Arc::new(Inbox::default());
        let writer = Writer::new(store, reader, Arc::clone(&inbox), waiting, metrics, clock);
        let desk = Arc::new(Self {
            inbox,
            helps_sends: !writer.waits_for_disk(),
            writer: Mutex::new(Some(writer)),
            brought: Notify::new(),
            is_closed: AtomicBool::new(false),
            is_unaware: AtomicBool::new(false),
        });
        tokio::spawn(Arc::clone(&desk).help_on());
        desk
    }

    /// Hands send requests over; waits for room.
    ///
    /// # Errors
    /// When the writer has stopped; the requests get no answer then, their outcome is "not stored".
    pub async fn put_send(&self, batch: SendBatch) -> Result<(), Stopped> {
        if !self.helps_sends {
            return self.inbox.put_send(batch, Wake::Now).await;
        }
        self.inbox.put_send(batch, Wake::Later).await?;
        self.brought.notify_one();
        Ok(())
    }

    /// Hands actions over; waits for room.
    ///
    /// # Errors
    /// When the writer has stopped.
    pub async fn put_actions(&self, batch: ActionBatch) -> Result<(), Stopped> {
        let is_for_thread = matches!(batch.then, ActionDone::TellDurable(_));
        let work = Ordered::Actions(batch);
        if is_for_thread {
            return self.inbox.put_ordered(work, Wake::Now).await;
        }
        self.inbox.put_ordered(work, Wake::Later).await?;
        self.brought.notify_one();
        Ok(())
    }

    /// Hands a control over, behind the actions so far; waits for room. `then` is told when the
    /// control is durable.
    ///
    /// # Errors
    /// When the writer has stopped.
    pub async fn put_control(
        &self,
        control: Control,
        then: oneshot::Sender<()>,
    ) -> Result<(), Stopped> {
        let work = Ordered::Control(control, then);
        self.inbox.put_ordered(work, Wake::Now).await
    }

    /// Hands copies over; waits for room.
    ///
    /// # Errors
    /// When the writer has stopped.
    pub async fn put_copies(&self, batch: CopyBatch) -> Result<(), Stopped> {
        self.inbox.put_copies(batch).await
    }

    /// Takes no more; what was handed over is still written.
    pub fn close(&self) {
        self.inbox.close();
        self.is_closed.store(true, Ordering::SeqCst);
        self.brought.notify_one();
    }

    /// Works until the desk is closed and empty, then closes the store. For the writer's thread.
    ///
    /// # Errors
    /// The first write or sync that failed. Nothing was answered after it.
    pub fn run(&self) -> Result<(), Error> {
        let done = self.work_off();
        if let Err(error) = &done {
            error!(%error, "store failed; the broker stops so that nothing is lost");
            self.close();
        }
        done
    }

    fn work_off(&self) -> Result<(), Error> {
        let mut rest = Rest::NONE;
        while self.inbox.wait(rest.patience, rest.which) {
            let mut writer = self.sit_down()?;
            rest = writer.as_mut().ok_or(Error::Poisoned)?.work()?;
            // As long as nobody else can append.
            self.is_unaware.store(rest.nothing_due, Ordering::SeqCst);
        }
        let writer = self.sit_down()?.take();
        writer.ok_or(Error::Poisoned)?.close()
    }

    fn sit_down(&self) -> Result<MutexGuard<'_, Option<Writer>>, Error> {
        // Whoever panicked left a batch half written.
        self.writer
            .lock()
            .map_err(|_: PoisonError<_>| Error::Poisoned)
    }

    /// Helps until the desk is closed.
    async fn help_on(self: Arc<Self>) {
        while !self.is_closed.load(Ordering::SeqCst) {
            self.brought.notified().await;
            // Others that are ready to run may bring something too.
            tokio::task::yield_now().await;
            self.help();
        }
    }

    /// Does what waits, if it is little and nobody is at it; else sees to it that somebody does.
    fn help(&self) {
        for _ in 0..HELPS_MAX {
            match self.writer.try_lock() {
                Ok(mut writer) => {
                    let is_done = writer.as_mut().is_some_and(Writer::work_a_little);
                    drop(writer);
                    if !is_done {
                        break;
                    }
                }
                // Who is at it looks into the inbox again.
                Err(TryLockError::WouldBlock) => return,
                // The thread finds out and ends.
                Err(TryLockError::Poisoned(_)) => break,
            }
            if self.inbox.is_idle(Actions::Take) {
                if self.is_unaware.swap(false, Ordering::SeqCst) {
                    self.inbox.call();
                }
                return;
            }
        }
        self.inbox.call();
    }
}
