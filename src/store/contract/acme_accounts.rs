//! Accounts at certificate authorities.

use super::*;

pub(super) async fn an_account_belongs_to_its_directory_and_is_replaced<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let account = |directory: &str, number: u8| AcmeAccount {
        directory: directory.to_owned(),
        account_url: format!("{directory}/acct/{number}"),
        credentials: Zeroizing::new(vec![number; 3]),
    };
    let (one, other) = ("https://ca.test/directory", "https://other.test/directory");
    for new in [account(one, 1), account(other, 2), account(one, 3)] {
        bed.store.store_acme_account(new, now()).await.unwrap();
    }
    let bed = bed.restart().await;
    for (directory, number) in [(one, 3), (other, 2)] {
        let found = bed.store.acme_account(directory.to_owned()).await.unwrap().unwrap();
        let wanted = account(directory, number);
        assert_eq!((found.account_url, found.credentials), (wanted.account_url, wanted.credentials));
    }
    assert!(bed.store.acme_account("https://ca.test/".to_owned()).await.unwrap().is_none());
}
