//! What work may cost and has cost: tokens, forward passes, KV bytes, verifier calls, nanoseconds.
//!
//! Accounts are nested (problem, branch, phase): what is charged to one is charged to all above it. Work is charged
//! before it is done ([`Ledger::reserve`]), and what it did not need is given back ([`Ledger::settle`]), so that no
//! limit is ever passed. Time alone cannot be stopped: it is noted after the fact ([`Ledger::spend`]), and may pass
//! its limit by the work that was under way.
//!
//! ```
//! use hornbeam_core::ledger::{Cost, Ledger, ROOT};
//!
//! // 100 tokens, and no other limit.
//! let mut ledger = Ledger::new([Some(100), None, None, None, None]);
//! let problem = ledger.open(ROOT, [Some(60), None, None, None, None])?;
//! assert!(ledger.reserve(problem, [50, 0, 0, 0, 0])?);
//! assert!(!ledger.reserve(problem, [20, 0, 0, 0, 0])?); // 10 are left to the problem
//!
//! // It took 30 of them, in 30 forward passes that nobody limits.
//! ledger.settle(problem, [50, 0, 0, 0, 0], [30, 0, 0, 0, 0])?;
//! ledger.spend(problem, Cost::Forwards, 30)?;
//! assert_eq!((ledger.left(problem, Cost::Tokens)?, ledger.left(ROOT, Cost::Tokens)?), (30, 70));
//! # Ok::<(), hornbeam_core::Error>(())
//! ```

use crate::error::{Error, Result};

/// Kinds of cost.
#[repr(usize)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cost {
    /// Tokens that the model wrote.
    Tokens = 0,
    /// Forward passes.
    Forwards = 1,
    /// Bytes of pages that are held. A level, not a flow: what is given back can be had again.
    KvBytes = 2,
    /// Calls of a verifier or a value function, a path each.
    VerifierCalls = 3,
    /// Nanoseconds.
    Nanoseconds = 4,
}

/// How many kinds there are.
pub const KINDS: usize = 5;

/// Their names, as limits have them.
pub const NAMES: [&str; KINDS] = ["tokens", "forwards", "kv_bytes", "verifier_calls", "seconds"];

/// One number a kind.
pub type Amounts = [u64; KINDS];

/// An account of a [`Ledger`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account(usize);

/// The account of the whole.
pub const ROOT: Account = Account(0);

#[derive(Debug, Clone)]
struct Entry {
    parent: Option<Account>,
    limits: [Option<u64>; KINDS],
    spent: Amounts,
    reserved: Amounts,
    peak_bytes: u64,
}

/// Accounts, the root first.
#[derive(Debug, Clone)]
pub struct Ledger {
    entries: Vec<Entry>,
}

impl Ledger {
    /// A ledger with the limits of the whole; `None` is no limit.
    #[must_use]
    pub fn new(limits: [Option<u64>; KINDS]) -> Self {
        Self { entries: vec![Entry::new(None, limits)] }
    }

    /// A new account below `parent`, with limits of its own.
    ///
    /// # Errors
    /// [`Error::Value`] for an account that there is not.
    pub fn open(&mut self, parent: Account, limits: [Option<u64>; KINDS]) -> Result<Account> {
        self.entry(parent)?;
        self.entries.push(Entry::new(Some(parent), limits));
        Ok(Account(self.entries.len() - 1))
    }

    /// The account of a number that [`Account::number`] gave.
    ///
    /// # Errors
    /// [`Error::Value`] for an account that there is not.
    pub fn account(&self, number: usize) -> Result<Account> {
        self.entry(Account(number)).map(|_| Account(number))
    }

    /// How much of a kind can still be reserved: the least of what the account and those above it have left;
    /// `u64::MAX` without a limit.
    ///
    /// # Errors
    /// [`Error::Value`] for an account that there is not.
    pub fn left(&self, account: Account, cost: Cost) -> Result<u64> {
        self.entry(account)?;
        Ok(self.up(account).map(|entry| entry.left(cost)).min().unwrap_or(0))
    }

    /// The kind of which nothing is left, the lowest first.
    ///
    /// # Errors
    /// [`Error::Value`] for an account that there is not.
    pub fn exhausted(&self, account: Account) -> Result<Option<Cost>> {
        for cost in [Cost::Tokens, Cost::Forwards, Cost::KvBytes, Cost::VerifierCalls, Cost::Nanoseconds] {
            if self.left(account, cost)? == 0 {
                return Ok(Some(cost));
            }
        }
        Ok(None)
    }

    /// Charges work that is to be done, if the account and all above it have as much of every kind; else nothing
    /// changes. Says whether it did.
    ///
    /// # Errors
    /// [`Error::Value`] for an account that there is not.
    pub fn reserve(&mut self, account: Account, amounts: Amounts) -> Result<bool> {
        self.entry(account)?;
        let fits = |entry: &Entry| (0..KINDS).all(|kind| amounts[kind] <= entry.left_of(kind));
        if !self.up(account).all(fits) {
            return Ok(false);
        }
        self.change(account, |entry| {
            for kind in 0..KINDS {
                entry.reserved[kind] = entry.reserved[kind].saturating_add(amounts[kind]);
            }
        });
        Ok(true)
    }

    /// Ends a reservation: `used` of it was spent, the rest is refunded. Bytes that were used are held until
    /// [`Ledger::release`].
    ///
    /// # Errors
    /// [`Error::Value`] for an account that there is not, if more was used than reserved, or if so much is not
    /// reserved.
    pub fn settle(&mut self, account: Account, reserved: Amounts, used: Amounts) -> Result<()> {
        let entry = self.entry(account)?;
        for kind in 0..KINDS {
            if used[kind] > reserved[kind] {
                return Err(Error::value(
                    "used",
                    used[kind],
                    format!("at most the {} reserved", reserved[kind]),
                ));
            }
            if reserved[kind] > entry.reserved[kind] {
                return Err(Error::value(
                    "reserved",
                    reserved[kind],
                    format!("at most {}", entry.reserved[kind]),
                ));
            }
        }
        self.change(account, |entry| {
            for kind in 0..KINDS {
                entry.reserved[kind] -= reserved[kind];
                entry.spent[kind] = entry.spent[kind].saturating_add(used[kind]);
            }
        });
        Ok(())
    }

    /// Notes what was spent without a reservation: time. A limit may be passed by it.
    ///
    /// # Errors
    /// [`Error::Value`] for an account that there is not.
    pub fn spend(&mut self, account: Account, cost: Cost, amount: u64) -> Result<()> {
        self.entry(account)?;
        let kind = cost as usize;
        self.change(account, |entry| {
            entry.spent[kind] = entry.spent[kind].saturating_add(amount);
        });
        Ok(())
    }

    /// Gives bytes of pages back that are held.
    ///
    /// # Errors
    /// [`Error::Value`] for an account that there is not, or if it does not hold so many.
    pub fn release(&mut self, account: Account, bytes: u64) -> Result<()> {
        let held = self.entry(account)?.spent[Cost::KvBytes as usize];
        if bytes > held {
            return Err(Error::value("bytes", bytes, format!("at most the {held} held")));
        }
        self.change(account, |entry| entry.spent[Cost::KvBytes as usize] -= bytes);
        Ok(())
    }

    /// What an account and those below it have spent. Of bytes: what is held now.
    ///
    /// # Errors
    /// [`Error::Value`] for an account that there is not.
    pub fn spent(&self, account: Account) -> Result<Amounts> {
        Ok(self.entry(account)?.spent)
    }

    /// The most bytes of pages that were held at a time.
    ///
    /// # Errors
    /// [`Error::Value`] for an account that there is not.
    pub fn peak_bytes(&self, account: Account) -> Result<u64> {
        Ok(self.entry(account)?.peak_bytes)
    }

    /// What is reserved and not settled.
    ///
    /// # Errors
    /// [`Error::Value`] for an account that there is not.
    pub fn reserved(&self, account: Account) -> Result<Amounts> {
        Ok(self.entry(account)?.reserved)
    }

    fn entry(&self, account: Account) -> Result<&Entry> {
        self.entries.get(account.0).ok_or_else(|| {
            Error::value("account", account.0, format!("one of the {} that were opened", self.entries.len()))
        })
    }

    /// An account that there is, and all above it.
    fn up(&self, account: Account) -> impl Iterator<Item = &Entry> {
        let mut next = Some(account);
        std::iter::from_fn(move || {
            let entry = &self.entries[next?.0];
            next = entry.parent;
            Some(entry)
        })
    }

    fn change(&mut self, account: Account, change: impl Fn(&mut Entry)) {
        let mut next = Some(account);
        while let Some(account) = next {
            let entry = &mut self.entries[account.0];
            change(entry);
            entry.peak_bytes = entry.peak_bytes.max(entry.spent[Cost::KvBytes as usize]);
            next = entry.parent;
        }
    }
}

impl Account {
    /// Its number, the root's being 0.
    #[must_use]
    pub fn number(self) -> usize {
        self.0
    }
}

impl Entry {
    fn new(parent: Option<Account>, limits: [Option<u64>; KINDS]) -> Self {
        Self { parent, limits, spent: [0; KINDS], reserved: [0; KINDS], peak_bytes: 0 }
    }

    fn left(&self, cost: Cost) -> u64 {
        self.left_of(cost as usize)
    }

    fn left_of(&self, kind: usize) -> u64 {
        let gone = self.spent[kind].saturating_add(self.reserved[kind]);
        self.limits[kind].map_or(u64::MAX, |limit| limit.saturating_sub(gone))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tokens(count: u64) -> Amounts {
        [count, 0, 0, 0, 0]
    }

    #[test]
    fn a_child_is_held_to_every_limit_above_it() {
        let mut ledger = Ledger::new([Some(10), None, Some(100), None, Some(5)]);
        let problem = ledger.open(ROOT, [Some(6), None, None, None, None]).unwrap();
        let branch = ledger.open(problem, [None; KINDS]).unwrap();
        assert!(ledger.reserve(branch, tokens(6)).unwrap());
        assert!(!ledger.reserve(branch, tokens(1)).unwrap());
        assert!(ledger.reserve(ROOT, tokens(4)).unwrap());
        ledger.settle(branch, tokens(6), tokens(2)).unwrap();
        assert_eq!(ledger.left(branch, Cost::Tokens), Ok(4));
        assert_eq!(ledger.left(ROOT, Cost::Tokens), Ok(4));
        assert_eq!(ledger.spent(ROOT).unwrap()[0], 2);
        ledger.spend(branch, Cost::Nanoseconds, 9).unwrap();
        assert_eq!(ledger.exhausted(branch), Ok(Some(Cost::Nanoseconds)));
        assert_eq!(ledger.left(branch, Cost::Forwards), Ok(u64::MAX));
    }

    #[test]
    fn bytes_are_held_until_they_are_released() {
        let bytes = |count| [0, 0, count, 0, 0];
        let mut ledger = Ledger::new([None, None, Some(100), None, None]);
        assert!(ledger.reserve(ROOT, bytes(80)).unwrap());
        ledger.settle(ROOT, bytes(80), bytes(50)).unwrap();
        assert_eq!(ledger.left(ROOT, Cost::KvBytes), Ok(50));
        assert!(!ledger.reserve(ROOT, bytes(51)).unwrap());
        ledger.release(ROOT, 30).unwrap();
        assert!(ledger.release(ROOT, 21).is_err());
        assert_eq!((ledger.peak_bytes(ROOT), ledger.spent(ROOT).unwrap()[2]), (Ok(50), 20));
    }

    #[test]
    fn what_is_not_there_is_refused() {
        let mut ledger = Ledger::new([None; KINDS]);
        assert!(ledger.account(1).is_err());
        assert!(ledger.reserve(ROOT, tokens(3)).unwrap());
        assert!(ledger.settle(ROOT, tokens(3), tokens(4)).is_err());
        assert!(ledger.settle(ROOT, tokens(4), tokens(1)).is_err());
        assert_eq!(ledger.reserved(ROOT).unwrap()[0], 3);
    }

    proptest! {
        /// Any sequence of reservations and settlements: no limit is passed, and sums are those of the parts.
        #[test]
        fn no_limit_is_passed(
            steps in prop::collection::vec((0usize..4, 0u64..8, 0u64..8, 0u64..8), 0..60),
            limits in prop::collection::vec(prop::option::of(0u64..30), 3),
        ) {
            let limit = |i: usize| -> [Option<u64>; KINDS] { [limits[i], None, limits[i], None, None] };
            let mut ledger = Ledger::new(limit(0));
            let left = ledger.open(ROOT, limit(1)).unwrap();
            let right = ledger.open(ROOT, limit(2)).unwrap();
            let deep = ledger.open(left, [None; KINDS]).unwrap();
            let accounts = [ROOT, left, right, deep];
            let mut open: Vec<(Account, Amounts)> = Vec::new();
            for (which, tokens, bytes, used) in steps {
                let amounts = [tokens, 1, bytes, 0, 0];
                if used % 2 == 0 && !open.is_empty() {
                    let (account, reserved) = open.remove(which % open.len());
                    ledger.settle(account, reserved, reserved.map(|amount| amount.min(used))).unwrap();
                } else if ledger.reserve(accounts[which], amounts).unwrap() {
                    open.push((accounts[which], amounts));
                }
                for (i, account) in [ROOT, left, right].into_iter().enumerate() {
                    let (spent, reserved) = (ledger.spent(account).unwrap(), ledger.reserved(account).unwrap());
                    for kind in [0, 2] {
                        prop_assert!(limit(i)[kind].is_none_or(|limit| spent[kind] + reserved[kind] <= limit));
                    }
                    let owned = |owner: Account| owner == account || account == ROOT || (account == left && owner == deep);
                    let below: u64 = open.iter().filter(|(owner, _)| owned(*owner)).map(|(_, amounts)| amounts[2]).sum();
                    prop_assert_eq!(reserved[2], below);
                }
            }
        }
    }
}
