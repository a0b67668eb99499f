//! Other people's software as the judge.
