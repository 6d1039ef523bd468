//! How a row chooses its pages, as recipes say it.

use crate::error::{Error, Result};
use crate::ops::page_summary::Summary;

/// Whose scores choose together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// A kv head chooses once, by the greatest score of its query heads: by bounds an upper bound for each.
    Max,
    /// Each query head chooses for itself, as Quest does (Tang et al. 2024, section 3.3, with as many kv heads
    /// as query heads).
    Union,
    /// A layer chooses once, by the sum of the scores of its query heads, as InfLLM does (Xiao et al. 2024).
    Layer,
}

/// A number of pages.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pages {
    /// So many.
    Count(usize),
    /// This share of the row's pages, rounded up.
    Share(f64),
}

impl Pages {
    /// The number for a row of `pages` pages.
    pub(super) fn of(self, pages: usize) -> usize {
        match self {
            Self::Count(count) => count,
            Self::Share(share) => (share * pages as f64).ceil() as usize,
        }
    }
}

/// Which pages are taken, the best first. The mass of a page is estimated as its number of shown tokens times
/// the exponential of its score, as a share of that of all pages of the row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Select {
    /// So many.
    TopK(Pages),
    /// The fewest whose mass is at least this share (Twilight, Lin et al. 2025).
    TopP(f64),
    /// Those whose mass is at least this share.
    Threshold(f64),
    /// Those before the elbow: the point of the curve of falling scores that lies farthest below the chord from
    /// the first to the last, the first such point.
    Elbow,
    /// None beside those that are always read.
    None,
}

/// How a row chooses its pages.
///
/// Always read, and counted in what follows: pages with one of the first `sinks` positions, with one of the last
/// `window` positions up to the row's own, and the page of the row's latest key.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rule {
    /// What scores are made of.
    pub summary: Summary,
    /// How far from the middle of its bounds to the bound the score of a page lies, 0 to 1; 1 for means.
    pub slack: f32,
    /// Who chooses together.
    pub group: Group,
    /// What is taken.
    pub select: Select,
    /// Fewest pages that are read, where the row has as many.
    pub floor: usize,
    /// Most pages that are read, those aside that are always read.
    pub cap: Option<usize>,
    /// Tokens.
    pub sinks: u32,
    /// Tokens.
    pub window: u32,
}

/// The rule of some rows.
#[derive(Debug, Clone, Copy)]
pub struct RuledRows {
    /// First row.
    pub row_begin: u32,
    /// One past the last.
    pub row_end: u32,
    /// Their rule.
    pub rule: Rule,
}

/// The words and numbers that a recipe says a rule in.
#[derive(Debug, Clone, Copy)]
pub struct RuleWords<'a> {
    /// `bounds` or `mean`.
    pub estimate: &'a str,
    /// For `bounds`; without it 1.
    pub slack: Option<f32>,
    /// `max`, `union` or `layer`.
    pub group: &'a str,
    /// `topk`, `topp`, `threshold`, `elbow` or `none`.
    pub select: &'a str,
    /// Pages, for `topk` without `share`.
    pub k: Option<usize>,
    /// For `topk` without `k`.
    pub share: Option<f64>,
    /// For `topp`.
    pub p: Option<f64>,
    /// Pages.
    pub floor: usize,
    /// Pages.
    pub cap: Option<usize>,
    /// For `threshold`.
    pub threshold: Option<f64>,
    /// Tokens.
    pub sinks: u32,
    /// Tokens.
    pub window: u32,
}

impl Rule {
    /// The rule that the words say.
    ///
    /// # Errors
    /// [`Error::Value`] for unknown words, numbers out of range, numbers that the selection needs and that are
    /// not there, and numbers that it does not know.
    pub fn new(words: &RuleWords<'_>) -> Result<Self> {
        let estimates = "bounds or mean";
        let summary = Summary::ALL.into_iter().find(|summary| summary.name() == words.estimate);
        let summary = summary.ok_or_else(|| Error::value("estimate", words.estimate, estimates))?;
        let slack = words.slack.unwrap_or(1.0);
        if !(0.0..=1.0).contains(&slack) {
            return Err(Error::value("slack", slack, "0 to 1"));
        }
        if words.slack.is_some() && summary != Summary::Bounds {
            return Err(Error::value("slack", "given", format!("nothing: estimate is {}", summary.name())));
        }
        let group = match words.group {
            "max" => Group::Max,
            "union" => Group::Union,
            "layer" => Group::Layer,
            other => return Err(Error::value("group", other, "max, union or layer")),
        };
        let select = match (words.select, words.k, words.share) {
            ("topk", Some(0), None) => return Err(Error::value("k", 0, "at least 1 page")),
            ("topk", Some(k), None) => Select::TopK(Pages::Count(k)),
            ("topk", None, Some(share)) => Select::TopK(Pages::Share(part("share", share)?)),
            ("topk", ..) => {
                let got = if words.k.is_some() { "k and share" } else { "neither" };
                return Err(Error::value("pages of topk", got, "k or share"));
            }
            ("topp", ..) => Select::TopP(part("p", needed("p", words.p)?)?),
            ("threshold", ..) => Select::Threshold(part("threshold", needed("threshold", words.threshold)?)?),
            ("elbow", ..) => Select::Elbow,
            ("none", ..) => Select::None,
            (other, ..) => {
                return Err(Error::value("select", other, "topk, topp, threshold, elbow or none"));
            }
        };
        let strange = [
            ("k", words.k.is_some() && words.select != "topk"),
            ("share", words.share.is_some() && words.select != "topk"),
            ("p", words.p.is_some() && words.select != "topp"),
            ("threshold", words.threshold.is_some() && words.select != "threshold"),
            ("floor", words.floor > 0 && words.select == "none"),
            ("cap", words.cap.is_some() && words.select == "none"),
        ];
        if let Some((name, _)) = strange.into_iter().find(|(_, strange)| *strange) {
            let want = format!("nothing: select is {}", words.select);
            return Err(Error::value(name, "given", want));
        }
        if let Some(cap) = words.cap
            && cap < words.floor.max(1)
        {
            return Err(Error::value("cap", cap, format!("at least {}", words.floor.max(1))));
        }
        let (floor, cap, sinks, window) = (words.floor, words.cap, words.sinks, words.window);
        Ok(Self { summary, slack, group, select, floor, cap, sinks, window })
    }

    /// What its scores are made of, if it needs any.
    pub fn estimate(&self) -> Option<Summary> {
        (self.select != Select::None).then_some(self.summary)
    }
}

fn needed(name: &'static str, value: Option<f64>) -> Result<f64> {
    value.ok_or_else(|| Error::value(name, "missing", "a number above 0, at most 1"))
}

fn part(name: &'static str, value: f64) -> Result<f64> {
    if value > 0.0 && value <= 1.0 {
        return Ok(value);
    }
    Err(Error::value(name, value, "a number above 0, at most 1"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const TOP: RuleWords<'static> = RuleWords {
        estimate: "bounds",
        slack: None,
        group: "max",
        select: "topk",
        k: Some(3),
        share: None,
        p: None,
        floor: 0,
        cap: None,
        threshold: None,
        sinks: 4,
        window: 9,
    };

    #[test]
    fn words_that_say_no_rule_are_refused_by_name() {
        let rule = Rule::new(&TOP).unwrap();
        assert_eq!((rule.select, rule.group), (Select::TopK(Pages::Count(3)), Group::Max));
        let refused = |words: RuleWords<'_>| Rule::new(&words).unwrap_err().to_string();
        let top_p = RuleWords { select: "topp", k: None, ..TOP };
        assert_eq!(
            refused(RuleWords { estimate: "sketch", ..TOP }),
            "estimate is sketch, expected bounds or mean"
        );
        assert_eq!(refused(RuleWords { group: "min", ..TOP }), "group is min, expected max, union or layer");
        assert_eq!(refused(RuleWords { slack: Some(1.5), ..TOP }), "slack is 1.5, expected 0 to 1");
        assert!(refused(RuleWords { slack: Some(f32::NAN), ..TOP }).starts_with("slack is NaN"));
        assert_eq!(
            refused(RuleWords { estimate: "mean", slack: Some(0.5), ..TOP }),
            "slack is given, expected nothing: estimate is mean"
        );
        assert!(refused(RuleWords { select: "best", ..TOP }).starts_with("select is best"));
        assert_eq!(refused(RuleWords { k: Some(0), ..TOP }), "k is 0, expected at least 1 page");
        assert!(refused(RuleWords { k: None, ..TOP }).contains("neither, expected k or share"));
        assert!(refused(RuleWords { share: Some(0.5), ..TOP }).contains("k and share"));
        assert!(refused(top_p).starts_with("p is missing"));
        assert!(refused(RuleWords { p: Some(f64::NAN), ..top_p }).starts_with("p is NaN"));
        assert_eq!(
            refused(RuleWords { p: Some(0.5), ..TOP }),
            "p is given, expected nothing: select is topk"
        );
        assert!(refused(RuleWords { floor: 4, cap: Some(3), ..TOP }).starts_with("cap is 3"));
        let none = RuleWords { select: "none", k: None, ..TOP };
        assert_eq!(Rule::new(&none).unwrap().estimate(), None);
        assert!(refused(RuleWords { floor: 1, ..none }).starts_with("floor is given"));
    }

    #[test]
    fn a_share_of_pages_is_rounded_up() {
        assert_eq!(Pages::Share(0.25).of(9), 3);
        assert_eq!(Pages::Share(0.001).of(9), 1);
        assert_eq!((Pages::Share(1.0).of(9), Pages::Count(12).of(9)), (9, 12));
    }
}
