//! Where a pushed component stands: its stage, and among several validators or transformers its position.

use std::fmt;
use std::str::FromStr;

use super::component::Stage;

/// Pushed validators, or transformers, of one tenant.
pub const POSITIONS: u8 = 8;

/// One place of a tenant's stage, with versions of its own. Written `validator` for the first position, `validator-2` for
/// the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    pub stage: Stage,
    /// From 1, in the order of calls.
    pub position: u8,
}

impl Place {
    /// The error says what there is instead.
    pub fn new(stage: Stage, position: u8) -> Result<Place, String> {
        let may_be_several = matches!(stage, Stage::Validator | Stage::Transformer);
        match position {
            1 => Ok(Place { stage, position }),
            2..=POSITIONS if may_be_several => Ok(Place { stage, position }),
            _ if may_be_several => Err(format!("position {position}: write a number from 1 to {POSITIONS}")),
            _ => Err(format!("there is one {stage}: only validators and transformers have positions")),
        }
    }
}

impl From<Stage> for Place {
    fn from(stage: Stage) -> Place {
        Place { stage, position: 1 }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.position {
            1 => write!(f, "{}", self.stage),
            position => write!(f, "{}-{position}", self.stage),
        }
    }
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Place, String> {
        // The first has one name alone, so that no place has two.
        match text.rsplit_once('-').map(|(stage, position)| (stage, position.parse())) {
            Some((stage, Ok(position))) if position > 1 && text.ends_with(&format!("-{position}")) => {
                Place::new(stage.parse()?, position)
            }
            _ => Ok(text.parse::<Stage>()?.into()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn places_have_one_name_each() {
        let check = |text: &str, expect: Result<(Stage, u8), &str>| match (text.parse::<Place>(), expect) {
            (Ok(place), Ok((stage, position))) => {
                assert_eq!((place, place.to_string().as_str()), (Place { stage, position }, text));
            }
            (Err(found), Err(expect)) => assert!(found.contains(expect), "{text}: {found}"),
            (found, _) => panic!("{text}: {found:?}"),
        };
        check("validator", Ok((Stage::Validator, 1)));
        check("validator-2", Ok((Stage::Validator, 2)));
        check("transformer-8", Ok((Stage::Transformer, 8)));
        check("transformer-9", Err("from 1 to 8"));
        check("validator-1", Err("`validator-1` is no stage"));
        check("validator-0", Err("is no stage"));
        check("validator-02", Err("is no stage"));
        check("validator-x", Err("is no stage"));
        check("signer-2", Err("there is one signer"));
        check("sorter-2", Err("`sorter` is no stage"));
        assert!(Place::new(Stage::Validator, 0).is_err());
    }
}
