# couriertcpd. The targets and variables are explained in README.md, "Building and installing".

PREFIX      = /usr/local
SBINDIR     = $(PREFIX)/sbin
SYSCONFDIR  = $(PREFIX)/etc
MANDIR      = $(PREFIX)/share/man
DOCDIR      = $(PREFIX)/share/doc/couriertcpd
RUNSTATEDIR = /run
DESTDIR     =

CARGO      = cargo
CARGOFLAGS = --locked
# Which c-ares is linked: bundled (what the crate carries) or system.
CARES      = bundled

FEATURES_bundled = --features bundled-cares
FEATURES_system  = --features system-cares
FEATURES = --no-default-features $(or $(FEATURES_$(CARES)),$(error CARES is bundled or system, not $(CARES)))

# Where cargo leaves a release build, cross-compiled or not.
OUT = $(or $(CARGO_TARGET_DIR),target)$(and $(CARGO_BUILD_TARGET),/$(CARGO_BUILD_TARGET))/release

PROGRAMS = couriertcpd couriertcpd-access
MAN      = $(wildcard man/*.[58])
DOCS     = README.md CHANGELOG.md LICENSE

# No path of the build folder reaches the programs: two folders give the same bytes.
HERE  = $(CURDIR)=.
CRATES = $${CARGO_HOME:-$$HOME/.cargo}=cargo

# MAKEFLAGS is kept from c-ares' own make, which would take our variables for its own.
all:
	MAKEFLAGS= RUSTFLAGS="$$RUSTFLAGS --remap-path-prefix=$(HERE) --remap-path-prefix=$(CRATES)" \
	CFLAGS="$$CFLAGS -ffile-prefix-map=$(HERE) -ffile-prefix-map=$(CRATES)" \
	$(CARGO) build --release $(CARGOFLAGS) $(FEATURES)

# On Debian as root, installs what is missing; elsewhere says what that is.
deps:
	@scripts/deps check

demo:
	@scripts/deps demo
	@$(MAKE) all
	@scripts/demo $(OUT)

check:
	@scripts/deps check
	@CARGO="$(CARGO)" CARGOFLAGS="$(CARGOFLAGS) $(FEATURES)" OUT="$(OUT)" scripts/check

# Copies what "make" built; builds nothing and asks nothing of this machine.
install:
	@for p in $(PROGRAMS); do test -x $(OUT)/$$p || { echo "$(OUT)/$$p is not built: run make first" >&2; exit 1; }; done
	install -d $(DESTDIR)$(SBINDIR) $(DESTDIR)$(MANDIR)/man5 $(DESTDIR)$(MANDIR)/man8 $(DESTDIR)$(DOCDIR)
	install -m 755 $(PROGRAMS:%=$(OUT)/%) $(DESTDIR)$(SBINDIR)
	for m in $(MAN); do install -m 644 $$m $(DESTDIR)$(MANDIR)/man$${m##*.}/ || exit 1; done
	install -m 644 $(DOCS) $(DESTDIR)$(DOCDIR)

uninstall:
	rm -f $(PROGRAMS:%=$(DESTDIR)$(SBINDIR)/%) $(DOCS:%=$(DESTDIR)$(DOCDIR)/%)
	for m in $(MAN:man/%=%); do rm -f $(DESTDIR)$(MANDIR)/man$${m##*.}/$$m; done
	-rmdir $(DESTDIR)$(DOCDIR)

# Fills vendor/ with the crates, for a build without a network: see vendor/README.md.
vendor:
	CARGO="$(CARGO)" scripts/vendor

dist:
	CARGO="$(CARGO)" scripts/dist

clean:
	$(CARGO) clean

.PHONY: all deps demo check install uninstall vendor dist clean
