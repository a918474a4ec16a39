//! The folder of a store: taking its lock, creating what is missing, refusing what is foreign.

use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Doing, Error};
use crate::format::{COMMIT, EPOCHS, LOCK, LogKind, TMP_SUFFIX};
use crate::fs::{FileSystem, LockError, LockGuard, OpenMode};
use crate::identity::{Identity, Shape};
use crate::log::commit::Ring;
use crate::log::epochs::Epochs;

/// Takes the lock of the folder, creating the folder if it is missing.
pub(crate) fn lock(fs: &dyn FileSystem, root: &Path) -> Result<Box<dyn LockGuard>, Error> {
    fs.create_dir(root).doing("create folder", root)?;
    let path = root.join(LOCK);
    fs.lock(&path, &std::process::id().to_string())
        .map_err(|error| match error {
            LockError::Held(owner) => Error::Locked {
                path: root.to_owned(),
                owner,
            },
            LockError::Io(source) => Error::io("lock", &path, source),
        })
}

/// What is in a folder that was locked.
pub(crate) struct Folder {
    pub(crate) identity: Identity,
    pub(crate) is_created: bool,
}

/// Reads who the folder belongs to, or makes a store of it.
pub(crate) fn open_or_create(
    fs: &dyn FileSystem,
    root: &Path,
    shape: &Shape,
) -> Result<Folder, Error> {
    if let Some(identity) = Identity::load(fs, root, shape)? {
        identity.check(root, shape)?;
        return Ok(Folder {
            identity,
            is_created: false,
        });
    }
    refuse_foreign(fs, root, shape)?;
    let identity = create(fs, root, shape)?;
    Ok(Folder {
        identity,
        is_created: true,
    })
}

fn folders_of(shape: &Shape) -> impl Iterator<Item = &'static str> {
    let logs = shape.logs.into_iter().map(LogKind::folder);
    logs.chain(shape.folders.iter().copied())
}

/// A folder without `store.id` may hold only what an interrupted creation leaves.
fn refuse_foreign(fs: &dyn FileSystem, root: &Path, shape: &Shape) -> Result<(), Error> {
    let folders: Vec<&str> = folders_of(shape).collect();
    for entry in fs.list(root).doing("list", root)? {
        let is_ours = if entry.is_dir {
            folders.contains(&entry.name.as_str())
        } else {
            [LOCK, COMMIT, EPOCHS].contains(&entry.name.as_str())
                || entry.name.ends_with(TMP_SUFFIX)
        };
        if !is_ours {
            return Err(Error::NotAStore {
                path: root.to_owned(),
                found: entry.name,
            });
        }
        if entry.is_dir {
            let dir = root.join(&entry.name);
            if let Some(inside) = fs.list(&dir).doing("list", &dir)?.first() {
                let found = format!("{}/{}", entry.name, inside.name);
                return Err(Error::NotAStore {
                    path: root.to_owned(),
                    found,
                });
            }
        }
    }
    Ok(())
}

/// Everything is durable before `store.id` appears: with it, a missing file is damage.
fn create(fs: &dyn FileSystem, root: &Path, shape: &Shape) -> Result<Identity, Error> {
    let identity = Identity::new(shape);
    for name in folders_of(shape) {
        let dir = root.join(name);
        fs.create_dir(&dir).doing("create folder", &dir)?;
    }
    Ring::create(fs, &root.join(COMMIT), identity.uuid, shape.commit_slots)?;
    Epochs::first().save(fs, root, identity.uuid)?;
    fs.sync_dir(root).doing("sync folder", root)?;
    sync_ancestors(fs, root)?;
    identity.save(fs, root, shape)?;
    tracing::info!(root = %root.display(), store = %identity.uuid, "store created");
    Ok(identity)
}

/// Makes the name of the root durable, and those of all folders above, which may be as new.
fn sync_ancestors(fs: &dyn FileSystem, root: &Path) -> Result<(), Error> {
    for dir in root.ancestors().skip(1) {
        let dir = if dir.as_os_str().is_empty() {
            Path::new(".")
        } else {
            dir
        };
        match fs.sync_dir(dir) {
            // A folder that may not be opened or cannot be synced is not one of ours to make
            // durable.
            Err(error) if is_not_ours(&error) => {}
            synced => synced.doing("sync folder", dir)?,
        }
    }
    Ok(())
}

fn is_not_ours(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, PermissionDenied, ReadOnlyFilesystem, Unsupported};
    matches!(
        error.kind(),
        InvalidInput | PermissionDenied | ReadOnlyFilesystem | Unsupported
    )
}

/// A folder that stores had not at first, created if it is missing.
pub(crate) fn add(fs: &dyn FileSystem, root: &Path, name: &str) -> Result<PathBuf, Error> {
    let dir = root.join(name);
    fs.create_dir(&dir).doing("create folder", &dir)?;
    fs.sync_dir(root).doing("sync folder", root)?;
    Ok(dir)
}

/// Removes files that a crash left incomplete.
pub(crate) fn remove_incomplete(fs: &dyn FileSystem, root: &Path) -> Result<(), Error> {
    for entry in fs.list(root).doing("list", root)? {
        if !entry.is_dir && entry.name.ends_with(TMP_SUFFIX) {
            let path = root.join(entry.name);
            fs.remove(&path).doing("remove", &path)?;
        }
    }
    Ok(())
}

/// Whether an empty file of this name is there; if not, it is now, durably.
pub(crate) fn mark(fs: &dyn FileSystem, root: &Path, name: &str) -> Result<bool, Error> {
    let path = root.join(name);
    match fs.open(&path, OpenMode::Existing) {
        Ok(_) => {
            // Whoever created it may have died before its name was durable.
            fs.sync_dir(root).doing("sync folder", root)?;
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs.open(&path, OpenMode::Create).doing("create", &path)?;
            fs.sync_dir(root).doing("sync folder", root)?;
            Ok(false)
        }
        Err(error) => Err(Error::io("open", &path, error)),
    }
}
