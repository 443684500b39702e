"""For the tests of users and of backend authors."""
