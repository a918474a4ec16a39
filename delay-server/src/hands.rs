//! What the scheduler decides is done here: orders to the writer, requests to brokers, questions to
//! the metaserver, reading of the store. Whatever comes of it is told to the scheduler.

use std::sync::Arc;

use qmq_client::{FoundRoute, RouteFinder};
use qmq_store::{DelayReader, DelaySubject, LoadCursor};
use tokio::runtime::Handle;
use tracing::{debug, error};

use crate::dispatch::Output;
use crate::inbox::{Inbox, Order};
use crate::routes::{self, Addresses};
use crate::scheduler::{News, NewsBox};
use crate::sender::Sender;
use crate::window::Load;

/// Does what the scheduler decides, without making it wait.
#[derive(Clone)]
pub struct Hands {
    /// The writer.
    pub inbox: Arc<Inbox>,
    /// The brokers.
    pub sender: Sender,
    /// The metaserver.
    pub finder: RouteFinder,
    /// The store.
    pub reader: DelayReader,
    /// Where brokers are.
    pub addresses: Addresses,
    /// The scheduler.
    pub news: NewsBox,
    /// Where tasks run.
    pub runtime: Handle,
}

impl Hands {
    /// Notes where groups are and returns those that take messages.
    #[must_use]
    pub fn learn(&self, route: &FoundRoute) -> Vec<Arc<str>> {
        self.addresses.learn(route)
    }

    /// Does what is to be done. When the writer has stopped so does the server: what is left
    /// undone stays pending or begun on disk.
    pub fn carry_out(&self, output: Output) {
        let order = match output {
            Output::AskRoute { subject } => return self.ask(subject),
            Output::Send {
                request,
                group,
                entries,
                ..
            } => {
                let (sender, news) = (self.sender.clone(), self.news.clone());
                // Ends with the reply or its time-out.
                self.runtime.spawn(async move {
                    let reply = sender.send(&group, entries).await;
                    news.tell(News::Replied(request, reply));
                });
                return;
            }
            Output::Begin {
                request,
                group,
                entries,
            } => Order::Begin {
                request,
                group,
                entries,
            },
            Output::Confirm { entries } => Order::Confirm(entries),
            Output::Refuse { entries } => Order::Refuse(entries),
        };
        let _ = self.inbox.put_order(order);
    }

    /// Reads a portion of the store.
    pub fn load(&self, load: &Load<LoadCursor>) {
        let (reader, news) = (self.reader.clone(), self.news.clone());
        let Load {
            from,
            until,
            resume,
            max,
        } = *load;
        self.runtime.spawn_blocking(move || {
            let mut entries = Vec::new();
            match reader.load(from, until, resume, max, &mut entries) {
                Ok(next) => news.tell(News::Loaded(entries, next)),
                Err(error) => {
                    error!(%from, %until, %error, "what is due soon cannot be read: tried again");
                    news.tell(News::LoadFailed);
                }
            }
        });
    }

    fn ask(&self, subject: DelaySubject) {
        let Some(name) = self.reader.name(subject) else {
            let unknown = "the store does not know the subject".to_owned();
            return self.news.tell(News::Route(subject, Err(unknown)));
        };
        let (finder, news) = (self.finder.clone(), self.news.clone());
        // Ends with the answer or its time-out.
        self.runtime.spawn(async move {
            let route = routes::ask(&finder, &name).await;
            if let Err(problem) = &route {
                debug!(subject = %name, problem, "no answer about a route");
            }
            news.tell(News::Route(subject, route));
        });
    }
}
