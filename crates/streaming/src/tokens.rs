//! Tokens: each is one promised session, good once and for a minute.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::limits;

/// All tokens that were given out and not used.
#[derive(Debug)]
pub(crate) struct Tokens<T> {
    promised: HashMap<String, T>,
    /// In the order of their ends; those that were used are still here.
    ends: VecDeque<(Instant, String)>,
}

/// There are [`limits::TOKENS`] of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("maximum number of in-flight requests exceeded")]
pub struct TooMany;

impl<T> Default for Tokens<T> {
    fn default() -> Self {
        Self {
            promised: HashMap::new(),
            ends: VecDeque::new(),
        }
    }
}

impl<T> Tokens<T> {
    /// Promises a session: a token of 256 random bits.
    pub(crate) fn give(&mut self, session: T, now: Instant) -> Result<String, TooMany> {
        self.expire(now);
        if self.promised.len() >= limits::TOKENS {
            return Err(TooMany);
        }
        let token = URL_SAFE_NO_PAD.encode(sys::random::bytes::<32>());
        self.ends
            .push_back((now + limits::TOKEN_LIFE, token.clone()));
        self.promised.insert(token.clone(), session);
        Ok(token)
    }

    /// What was promised; nobody gets it again.
    pub(crate) fn take(&mut self, token: &str, now: Instant) -> Option<T> {
        self.expire(now);
        self.promised.remove(token)
    }

    fn expire(&mut self, now: Instant) {
        // Used tokens behind one that waits would pile up.
        if self.ends.len() > 2 * limits::TOKENS {
            self.ends
                .retain(|(_, token)| self.promised.contains_key(token));
        }
        let done = |(end, token): &(Instant, String), promised: &HashMap<String, T>| {
            *end <= now || !promised.contains_key(token)
        };
        while self
            .ends
            .front()
            .is_some_and(|entry| done(entry, &self.promised))
        {
            if let Some((_, token)) = self.ends.pop_front() {
                self.promised.remove(&token);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_token_is_good_once() {
        let (mut tokens, now) = (Tokens::default(), Instant::now());
        let token = tokens.give(7, now).unwrap();
        assert_eq!(token.len(), 43);
        assert_eq!(tokens.take("", now), None);
        assert_eq!(tokens.take(&token, now), Some(7));
        assert_eq!(tokens.take(&token, now), None);
    }

    #[test]
    fn a_token_is_good_for_a_minute() {
        let (mut tokens, now) = (Tokens::default(), Instant::now());
        let (first, second) = (tokens.give(1, now).unwrap(), tokens.give(2, now).unwrap());
        let last = now + limits::TOKEN_LIFE - Duration::from_millis(1);
        assert_eq!(tokens.take(&first, last), Some(1));
        assert_eq!(tokens.take(&second, now + limits::TOKEN_LIFE), None);
    }

    #[test]
    fn a_flood_is_refused_until_a_minute_later() {
        let (mut tokens, now) = (Tokens::default(), Instant::now());
        let all: Vec<_> = (0..limits::TOKENS)
            .map(|n| tokens.give(n, now).unwrap())
            .collect();
        assert_eq!(tokens.give(0, now), Err(TooMany));
        assert_eq!(tokens.take(&all[5], now), Some(5));
        tokens.give(0, now).unwrap();
        assert_eq!(tokens.give(0, now), Err(TooMany));
        tokens.give(0, now + limits::TOKEN_LIFE).unwrap();
        assert_eq!((tokens.promised.len(), tokens.ends.len()), (1, 1));
    }
}
