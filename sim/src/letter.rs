//! What messages of the simulation say, and which of them a group wants.
//!
//! The number in a message decides everything else about it, so that a message that comes back can
//! be compared with what was sent.

use bytes::Bytes;
use qmq_broker::filter::Filter;
use qmq_model::message::property;
use qmq_model::{Message, Payload, Subject};
use qmq_protocol::command::pull::{PullFilter, PullRequest, TagFilter, TagMatch};
use qmq_store::NewMessage;

/// Tags that messages have a subset of, and one that none has.
const TAGS: [&str; 4] = ["red", "green", "blue", "grey"];
/// How many of them messages have.
const TAGS_IN_USE: usize = 3;
/// Deliveries of a message that names no maximum, as in the Java client.
const RETRIES_DEFAULT: u32 = 32;
/// Property that holds the number.
const NUMBER: &str = "number";

/// A message by its number, in one of its deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Letter {
    /// Every message that a producer sends has another one; copies keep it.
    pub number: u64,
    /// How often it is delivered with this copy: `qmq_times`.
    pub times: u32,
}

impl Letter {
    /// What a producer sends.
    #[must_use]
    pub fn first(number: u64) -> Self {
        Self { number, times: 1 }
    }

    /// What a consumer sends that did not finish it.
    #[must_use]
    pub fn again(self) -> Self {
        Self {
            times: self.times + 1,
            ..self
        }
    }

    /// Whether it was delivered so often that this copy belongs to the dead letters.
    #[must_use]
    pub fn is_dead(self) -> bool {
        self.times > self.times_max().unwrap_or(RETRIES_DEFAULT)
    }

    /// Deliveries it asks for itself: `qmq_maxRetryNum`.
    fn times_max(self) -> Option<u32> {
        [Some(1), Some(2), Some(3), None][self.chance(8) % 4]
    }

    fn has_tag(self, tag: usize) -> bool {
        tag < TAGS_IN_USE && self.chance(16) & (1 << tag) != 0
    }

    fn tags(self) -> impl Iterator<Item = &'static str> {
        let wanted = (0..TAGS_IN_USE).filter(move |tag| self.has_tag(*tag));
        wanted.map(|tag| TAGS[tag])
    }

    /// Eight bits that look random.
    fn chance(self, shift: u32) -> usize {
        let mixed = (self.number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        usize::from((mixed.rotate_right(32) >> shift).to_le_bytes()[0])
    }

    /// The message for the store.
    #[must_use]
    pub fn to_message(self, subject: &Subject) -> NewMessage {
        let mut properties = vec![(NUMBER.to_owned(), self.number.to_string())];
        if let Some(max) = self.times_max() {
            properties.push((property::MAX_RETRY_NUM.to_owned(), max.to_string()));
        }
        if self.times > 1 {
            properties.push((property::TIMES.to_owned(), self.times.to_string()));
        }
        let message = Message {
            subject: subject.as_str().to_owned(),
            message_id: format!("id-{}", self.number),
            tags: self.tags().map(str::to_owned).collect(),
            properties,
            ..Message::default()
        };
        let payload = message.to_payload().expect("a good message");
        let crc = payload_crc(&payload);
        NewMessage {
            subject: subject.clone(),
            payload,
            crc,
            fingerprint: None,
        }
    }

    /// Reads a message; `None` when it is not as it was sent.
    #[must_use]
    pub fn read(payload: &[u8]) -> Option<Self> {
        let (payload, _) = Payload::split_first(payload).ok()?;
        let message = Message::from_payload(&payload);
        let letter = Self {
            number: message.property(NUMBER)?.parse().ok()?,
            times: message.times(),
        };
        let max = message.property(property::MAX_RETRY_NUM);
        let is_whole = message
            .tags
            .iter()
            .map(String::as_str)
            .eq(letter.sorted_tags())
            && max.map(str::to_owned) == letter.times_max().map(|max| max.to_string());
        is_whole.then_some(letter)
    }

    fn sorted_tags(self) -> Vec<&'static str> {
        let mut tags: Vec<_> = self.tags().collect();
        tags.sort_unstable();
        tags
    }
}

fn payload_crc(payload: &Bytes) -> u32 {
    let (payload, _) = Payload::split_first(payload).expect("just made");
    payload.crc()
}

/// What a group wants: one of a few filters, by number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wish(pub usize);

/// Match and tags of each wish.
const WISHES: [(TagMatch, &[usize]); Wish::COUNT + 1] = [
    (TagMatch::NoTag, &[]),
    (TagMatch::Any, &[0]),
    (TagMatch::Any, &[0, 1]),
    (TagMatch::All, &[1, 2]),
    (TagMatch::Any, &[3]),
];

impl Wish {
    /// How many there are that want something.
    pub const COUNT: usize = 4;
    /// Wants what there is not.
    pub(crate) const NOTHING: Self = Self(Self::COUNT);

    /// Whether a consumer with this wish is to get `letter`. Written down once more, apart from
    /// the broker's filter.
    #[must_use]
    pub fn wants(self, letter: Letter) -> bool {
        let (tag_match, tags) = WISHES[self.0];
        let mut has = tags.iter().map(|tag| letter.has_tag(*tag));
        match tag_match {
            TagMatch::All => has.all(|has| has),
            TagMatch::Any => has.any(|has| has),
            TagMatch::NoTag | TagMatch::Other(_) => true,
        }
    }

    /// The broker's filter for it.
    #[must_use]
    pub fn filter(self) -> Option<Filter> {
        let (tag_match, tags) = WISHES[self.0];
        let tags = tags.iter().map(|tag| TAGS[*tag].as_bytes()).collect();
        let request = PullRequest {
            subject: "subject",
            group: "group",
            consumer_id: "consumer",
            request_num: 1,
            offset: -1,
            pull_begin: -1,
            pull_last: -1,
            timeout_ms: 0,
            is_broadcast: false,
            filters: vec![PullFilter::Tag(TagFilter { tag_match, tags })],
        };
        Filter::of(&request, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_survive_the_round_trip_and_differ() {
        let subject = Subject::new("s").unwrap();
        let mut seen = [[0; 2]; 3];
        let mut maxima = std::collections::BTreeSet::new();
        for number in 0..200 {
            let letter = Letter { number, times: 2 };
            let message = letter.to_message(&subject);
            assert_eq!(Letter::read(&message.payload), Some(letter));
            maxima.insert(letter.times_max());
            for (tag, seen) in seen.iter_mut().enumerate() {
                seen[usize::from(letter.has_tag(tag))] += 1;
            }
        }
        assert!(seen.iter().flatten().all(|count| *count > 20), "{seen:?}");
        assert_eq!(maxima.len(), 4);
    }

    #[test]
    fn a_changed_message_is_noticed() {
        let subject = Subject::new("s").unwrap();
        let message = Letter::first(7).to_message(&subject);
        let (payload, _) = Payload::split_first(&message.payload).unwrap();
        let mut changed = Message::from_payload(&payload);
        changed.tags.insert("grey".to_owned());
        assert_eq!(Letter::read(&changed.to_payload().unwrap()), None);
    }

    #[test]
    fn wishes_agree_with_the_filters() {
        let subject = Subject::new("s").unwrap();
        for wish in (0..=Wish::COUNT).map(Wish) {
            let filter = wish.filter();
            for number in 0..100 {
                let letter = Letter::first(number);
                let message = letter.to_message(&subject);
                let matches = filter.as_ref().is_none_or(|f| f.matches(&message.payload));
                assert_eq!(matches, wish.wants(letter), "{wish:?} {letter:?}");
            }
        }
    }
}
