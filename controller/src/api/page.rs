//! A page of a list.

use serde::Serialize;
use utoipa::ToSchema;

/// One page. `next` goes into `cursor` to get the following one; it is null at the end. A page may be short and still have
/// a next one.
#[derive(Serialize, ToSchema)]
pub struct Page<T> {
    pub items: Vec<T>,
    pub next: Option<String>,
}

impl<T> Page<T> {
    /// For lists by id: asked for `limit`, and full when it has as many.
    pub fn by_id(items: Vec<T>, limit: usize, id: impl Fn(&T) -> String) -> Self {
        let next = (items.len() >= limit).then(|| items.last().map(id)).flatten();
        Self { items, next }
    }

    pub fn map<U>(self, view: impl FnMut(T) -> U) -> Page<U> {
        Page { items: self.items.into_iter().map(view).collect(), next: self.next }
    }
}
