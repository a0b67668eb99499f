//! Stored templates.

use delivery_client::wire::TemplateEdit;

use super::super::templates::{From, TEMPLATES};
use super::*;

fn template(number: u128, alias: Option<&str>) -> Template {
    Template {
        id: Uuid::from_u128(number),
        tenant: "default".to_owned(),
        alias: alias.map(str::to_owned),
        name: format!("n{number}"),
        created_at: at(0),
        updated_at: at(0),
        published_at: None,
        draft: TemplateContent { html: Some("<p>1</p>".to_owned()), ..Default::default() },
        published: None,
    }
}

fn edit(html: &str, alias: Option<&str>) -> TemplateChange {
    let alias = alias.map(str::to_owned);
    TemplateChange::Edit(Box::new(TemplateEdit { html: Some(html.to_owned()), alias, ..Default::default() }))
}

#[tokio::test]
async fn a_template_is_edited_published_and_removed() {
    let (folder, store) = fresh();
    store.add_template(template(1, Some("order"))).await.unwrap();
    store.add_template(template(2, None)).await.unwrap();
    assert!(matches!(store.add_template(template(3, Some("order"))).await, Err(StoreError::Exists(_))));
    let by_alias = store.template("default", "order").await.unwrap();
    assert_eq!(by_alias, Some(template(1, Some("order"))));
    assert_eq!(by_alias, store.template("default", &Uuid::from_u128(1).to_string()).await.unwrap());
    assert_eq!(store.template("other", "order").await.unwrap(), None);
    assert_eq!(store.template("default", "none").await.unwrap(), None);

    let change = |name: &'static str, change| store.change_template("default", name, change, at(5));
    assert_eq!(change("order", TemplateChange::Publish).await.unwrap(), Uuid::from_u128(1));
    change("order", edit("<p>2</p>", Some("order-2"))).await.unwrap();
    assert!(matches!(change("order", TemplateChange::Publish).await, Err(StoreError::NotFound(_))));
    let other = Uuid::from_u128(2).to_string();
    let taken = store.change_template("default", &other, edit("x", Some("order-2")), at(5)).await;
    assert!(matches!(taken, Err(StoreError::Exists(_))), "{taken:?}");
    assert!(store.change_template("other", &other, TemplateChange::Remove, at(5)).await.is_err());
    drop(store);
    let store = open(folder.path());
    let found = store.template("default", "order-2").await.unwrap().unwrap();
    assert_eq!((found.published_at, found.updated_at), (Some(at(5)), at(5)));
    assert_eq!(found.published.unwrap().html.as_deref(), Some("<p>1</p>"));
    assert_eq!(found.draft.html.as_deref(), Some("<p>2</p>"));
    store.change_template("default", "order-2", TemplateChange::Remove, at(6)).await.unwrap();
    assert_eq!(store.template("default", "order-2").await.unwrap(), None);
}

#[tokio::test]
async fn lists_go_both_ways_and_have_an_end() {
    let (_folder, store) = fresh();
    for number in 1..=5 {
        store.add_template(template(number, None)).await.unwrap();
    }
    let list = async |from, limit| {
        let (found, more) = store.templates("default", from, limit).await.unwrap();
        (found.iter().map(|one| one.id.as_u128()).collect::<Vec<_>>(), more)
    };
    assert_eq!(list(From::Newest, 2).await, (vec![5, 4], true));
    assert_eq!(list(From::After(Uuid::from_u128(4)), 9).await, (vec![3, 2, 1], false));
    assert_eq!(list(From::Before(Uuid::from_u128(2)), 2).await, (vec![4, 3], true));
    assert_eq!(list(From::Before(Uuid::from_u128(3)), 9).await, (vec![5, 4], false));
    assert!(store.templates("default", From::After(Uuid::nil()), 9).await.is_err());
    for number in 6..=TEMPLATES as u128 {
        store.add_template(template(number, None)).await.unwrap();
    }
    assert!(matches!(store.add_template(template(9999, None)).await, Err(StoreError::Full)));
}
