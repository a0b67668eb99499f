//! Keeps what lies on disk from the other users of the machine: folders that only we enter, files that only we read.

use std::fs::{self, DirBuilder, File, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

/// Rights of everybody but the owner.
const OTHERS: u32 = 0o077;
/// A folder with it is shared by design (`/tmp`).
const STICKY: u32 = 0o1000;

/// Who may look into a folder besides its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Openness {
    Closed,
    /// Others may; its owner, and root, can change that.
    Of(u32),
    /// Others may, by design.
    Shared,
}

/// Whether others may look into the folder that this was read of.
pub(crate) fn openness(folder: &Metadata) -> Openness {
    match folder.mode() {
        mode if mode & OTHERS == 0 => Openness::Closed,
        mode if mode & STICKY != 0 => Openness::Shared,
        _ => Openness::Of(folder.uid()),
    }
}

/// Makes a folder where it lacks, and closes it to others where it was made open.
///
/// Fails where it cannot be closed: it belongs to somebody else, or is a folder that all users share.
pub(crate) fn folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let open = |why: String| {
        let advice = "give it to the user that runs posthaste and chmod 700 it, or choose another folder";
        io::Error::new(io::ErrorKind::PermissionDenied, format!("other users can look into it, {why}: {advice}"))
    };
    let owner = match openness(&fs::metadata(path)?) {
        Openness::Closed => return Ok(()),
        Openness::Shared => return Err(open("and it is a folder that all users share".to_owned())),
        Openness::Of(owner) => owner,
    };
    fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => open(format!("and it belongs to user {owner}")),
        _ => error,
    })?;
    tracing::warn!(folder = %path.display(), "other users could look into the folder: it is closed to them now");
    Ok(())
}

/// Opens a file to read and write, makes it where it lacks, and closes it to others where it was made open.
pub(super) fn file(path: &Path) -> io::Result<File> {
    let file = File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    if file.metadata()?.mode() & OTHERS != 0 {
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn what_is_open_is_closed() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("data");
        DirBuilder::new().mode(0o755).create(&path).unwrap();
        folder(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
        folder(&path.join("a/b")).unwrap();
        assert_eq!((mode(&path.join("a")), mode(&path.join("a/b"))), (0o700, 0o700));
        let old = path.join("old");
        File::create(&old).unwrap().set_permissions(Permissions::from_mode(0o644)).unwrap();
        file(&old).unwrap();
        file(&path.join("new")).unwrap();
        assert_eq!((mode(&old), mode(&path.join("new"))), (0o600, 0o600));
    }

    #[test]
    fn a_folder_that_all_users_share_is_refused_and_left_as_it_is() {
        let top = tempfile::tempdir().unwrap();
        let shared = top.path().join("shared");
        fs::create_dir(&shared).unwrap();
        fs::set_permissions(&shared, Permissions::from_mode(0o1777)).unwrap();
        let error = folder(&shared).unwrap_err().to_string();
        assert!(error.contains("all users share") && error.contains("chmod 700"), "{error}");
        assert_eq!(mode(&shared), 0o777);
    }
}
