//! What producers of delayed messages send, and by what number the store knows it.

use std::collections::HashMap;

use bytes::Bytes;
use qmq_model::{Message, Payload, Subject, UnixMillis};
use qmq_store::{AcceptSequence, NewDelayed};

const ID_PREFIX: &str = "id-";

/// One that was sent.
#[derive(Clone, Debug)]
struct Letter {
    subject: usize,
    payload: Bytes,
    crc: u32,
}

/// All of them, by number.
#[derive(Debug)]
pub(super) struct Letters {
    subjects: Vec<Subject>,
    all: Vec<Letter>,
    by_sequence: HashMap<AcceptSequence, u64>,
}

impl Letters {
    pub(super) fn new(subjects: usize) -> Self {
        let name = |number| Subject::new(&format!("delayed{number}")).expect("a good name");
        Self {
            subjects: (0..subjects).map(name).collect(),
            all: Vec::new(),
            by_sequence: HashMap::new(),
        }
    }

    /// How many there are: the number of the next one.
    pub(super) fn count(&self) -> u64 {
        self.all.len() as u64
    }

    /// The next message, with `padding` bytes of content.
    pub(super) fn write(
        &mut self,
        subject: usize,
        due: UnixMillis,
        padding: usize,
    ) -> (u64, NewDelayed) {
        let number = self.count();
        let message = Message {
            subject: self.subjects[subject].as_str().to_owned(),
            message_id: id(number),
            due: Some(due),
            properties: vec![("padding".to_owned(), "x".repeat(padding))],
            ..Message::default()
        };
        let payload = message.to_payload().expect("a good message");
        let (view, _) = Payload::split_first(&payload).expect("just made");
        let crc = view.crc();
        self.all.push(Letter {
            subject,
            payload: payload.clone(),
            crc,
        });
        let message = NewDelayed {
            subject: self.subjects[subject].clone(),
            due,
            payload,
            crc,
        };
        (number, message)
    }

    /// Subject and id of a message.
    pub(super) fn name(&self, number: u64) -> (Subject, String) {
        (
            self.subjects[self.letter(number).subject].clone(),
            id(number),
        )
    }

    pub(super) fn subject_index(&self, name: &Subject) -> usize {
        let found = self.subjects.iter().position(|subject| subject == name);
        found.expect("one of ours")
    }

    /// The store gave it this number, or may have.
    pub(super) fn placed(&mut self, number: u64, sequence: AcceptSequence) {
        self.by_sequence.insert(sequence, number);
    }

    pub(super) fn known(&self, sequence: AcceptSequence) -> Option<u64> {
        self.by_sequence.get(&sequence).copied()
    }

    /// The number of a message that is byte for byte what was sent.
    pub(super) fn recognise(&self, payload: &Bytes, crc: u32) -> Option<u64> {
        let (view, _) = Payload::split_first(payload).ok()?;
        let id = std::str::from_utf8(view.message_id).ok()?;
        let number = id.strip_prefix(ID_PREFIX)?.parse().ok()?;
        let letter = self.all.get(usize::try_from(number).ok()?)?;
        (letter.payload == *payload && letter.crc == crc).then_some(number)
    }

    fn letter(&self, number: u64) -> &Letter {
        &self.all[usize::try_from(number).expect("of this world")]
    }
}

fn id(number: u64) -> String {
    format!("{ID_PREFIX}{number}")
}
