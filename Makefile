# couriertcpd. The targets and variables are explained in README.md, "Building and installing".

PREFIX      = /usr/local
SBINDIR     = $(PREFIX)/sbin
LIBEXECDIR  = $(PREFIX)/lib/couriertcpd
SYSCONFDIR  = $(PREFIX)/etc
MANDIR      = $(PREFIX)/share/man
DOCDIR      = $(PREFIX)/share/doc/couriertcpd
RUNSTATEDIR = /run
LOGDIR      = /var/log/couriertcpd
# systemd looks in lib/systemd of /usr and of /usr/local.
SYSTEMDDIR  = $(PREFIX)/lib/systemd
# Which start scripts are installed: sysv, systemd, openrc (sysv and openrc have the same name).
INIT        = sysv systemd
DESTDIR     =

CARGO      = cargo
CARGOFLAGS = --locked
# Which c-ares is linked: bundled (what the crate carries) or system.
CARES      = bundled

FEATURES_bundled = --features bundled-cares
FEATURES_system  = --features system-cares
FEATURES := --no-default-features $(or $(FEATURES_$(CARES)),$(error CARES is bundled or system, not $(CARES)))

# The system's has to have the calls that the event loop makes, which came with this version.
CARES_LEAST = 1.34

# Where cargo leaves a release build, cross-compiled or not.
OUT = $(or $(CARGO_TARGET_DIR),target)$(and $(CARGO_BUILD_TARGET),/$(CARGO_BUILD_TARGET))/release

PROGRAMS = couriertcpd couriertcpd-access
MAN      = $(wildcard man/*.[58])
DOCS     = README.md CHANGELOG.md LICENSE docs/scaling.md docs/security.md $(wildcard docs/plots/*.svg)
EXAMPLES = $(wildcard contrib/examples/*.conf)

# No path of the build folder reaches the programs: two folders give the same bytes.
HERE  = $(CURDIR)=.
CRATES = $${CARGO_HOME:-$$HOME/.cargo}=cargo

# For the C among it, which is the bundled c-ares. What Rust's compiler adds by itself (position
# independence, read-only relocations) and this are looked for by scripts/check-hardening.
HARDEN = -fstack-protector-strong -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2
# Nothing unwinds through it, and a debugger has what -g gives: some 30 KiB less.
SMALL = -fno-asynchronous-unwind-tables

# MAKEFLAGS is kept from c-ares' own make, which would take our variables for its own.
all: cares-$(CARES)
	MAKEFLAGS= RUSTFLAGS="$$RUSTFLAGS --remap-path-prefix=$(HERE) --remap-path-prefix=$(CRATES)" \
	CFLAGS="$(HARDEN) $(SMALL) $$CFLAGS -ffile-prefix-map=$(HERE) -ffile-prefix-map=$(CRATES)" \
	$(CARGO) build --release $(CARGOFLAGS) $(FEATURES)

cares-bundled:
cares-system:
	@$${PKG_CONFIG:-pkg-config} --atleast-version=$(CARES_LEAST) libcares 2>/dev/null || { \
		found=$$($${PKG_CONFIG:-pkg-config} --modversion libcares 2>/dev/null) || found=none; \
		echo "CARES=system needs c-ares $(CARES_LEAST) or newer; pkg-config finds $$found" >&2; exit 1; }

# On Debian as root, installs what is missing; elsewhere says what that is.
deps:
	@scripts/deps check

demo:
	@scripts/deps demo
	@$(MAKE) all
	@scripts/demo $(OUT)

check: cares-$(CARES)
	@scripts/deps check
	@CARGO="$(CARGO)" CARGOFLAGS="$(CARGOFLAGS) $(FEATURES)" OUT="$(OUT)" scripts/check

# Size, time to start, memory when idle: the README's figures.
footprint: all
	@scripts/footprint $(OUT)

# Measures the daemon against what it replaces and its peers, as far as they are here ("scripts/deps bench" installs
# them): see docs/scaling.md. Needs root, or user namespaces. BENCHFLAGS: --rounds N, --seconds S, --only GROUP,...
BENCH      = target/bench
BENCHFLAGS =

bench: all
	@mkdir -p $(BENCH)
	$(CARGO) build --release $(CARGOFLAGS) --manifest-path bench/Cargo.toml --target-dir $(BENCH)/build
	$(BENCH)/build/release/bench run --ours $(OUT)/couriertcpd --work $(BENCH) --reference "$$(scripts/reference)" $(BENCHFLAGS)

# Draws what "make bench" measured.
bench-report:
	$(BENCH)/build/release/bench report $(BENCH)/results.json docs/plots

# Faults, hostile clients and services, signals, a soak of a minute: in less than ten minutes.
check-faults:
	@scripts/deps check
	@CARGO="$(CARGO)" CARGOFLAGS="$(CARGOFLAGS) $(FEATURES)" scripts/check-faults

# The soak alone, for MINUTES.
MINUTES = 10
soak:
	@scripts/deps check
	@CARGO="$(CARGO)" CARGOFLAGS="$(CARGOFLAGS) $(FEATURES)" MINUTES="$(MINUTES)" scripts/check-faults soak

# What is installed, each as MODE:SOURCE:TARGET.
FILES = $(foreach p,$(PROGRAMS),755:$(OUT)/$p:$(SBINDIR)/$p) \
	$(foreach m,$(notdir $(MAN)),644:man/$m:$(MANDIR)/man$(subst .,,$(suffix $m))/$m) \
	$(foreach d,$(DOCS),644:$d:$(DOCDIR)/$d) \
	$(foreach e,$(EXAMPLES),644:$e:$(DOCDIR)/examples/$(notdir $e)) \
	755:contrib/init/instance:$(LIBEXECDIR)/instance \
	644:contrib/logrotate:$(SYSCONFDIR)/logrotate.d/couriertcpd \
	$(foreach i,$(INIT),$(FILES_$i))
FILES_sysv    = 755:contrib/init/couriertcpd:$(SYSCONFDIR)/init.d/couriertcpd
FILES_openrc  = 755:contrib/openrc/couriertcpd:$(SYSCONFDIR)/init.d/couriertcpd
FILES_systemd = 644:contrib/systemd/couriertcpd.service:$(SYSTEMDDIR)/system/couriertcpd.service \
	644:contrib/systemd/couriertcpd@.service:$(SYSTEMDDIR)/system/couriertcpd@.service \
	644:contrib/systemd/couriertcpd@.socket:$(SYSTEMDDIR)/system/couriertcpd@.socket \
	755:contrib/systemd/couriertcpd-generator:$(SYSTEMDDIR)/system-generators/couriertcpd-generator

# In what comes from contrib/ the folders are written in.
SUBST = $(foreach v,SBINDIR SYSCONFDIR LIBEXECDIR RUNSTATEDIR LOGDIR,-e 's,@$v@,$($v),g')

# Copies what "make" built; builds nothing and asks nothing of this machine.
install:
	@for f in $(FILES); do \
		mode=$${f%%:*} target=$(DESTDIR)$${f##*:} source=$${f#*:}; source=$${source%:*}; \
		test -e $$source || { echo "$$source is not there: run make first" >&2; exit 1; }; \
		install -d $${target%/*} && install -m $$mode $$source $$target || exit 1; \
		case $$source in contrib/*) sed $(SUBST) $$source >$$target || exit 1 ;; esac; \
		echo "  $$target"; \
	done
	@install -d $(DESTDIR)$(SYSCONFDIR)/couriertcpd $(DESTDIR)$(LOGDIR)

# Leaves what the administrator put into the folder of the instances, and the logs.
uninstall:
	@for f in $(FILES); do rm -f $(DESTDIR)$${f##*:} || exit 1; done
	@-rmdir $(DESTDIR)$(DOCDIR)/examples $(DESTDIR)$(DOCDIR)/docs/plots $(DESTDIR)$(DOCDIR)/docs $(DESTDIR)$(DOCDIR) $(DESTDIR)$(LIBEXECDIR) $(DESTDIR)$(SYSCONFDIR)/couriertcpd $(DESTDIR)$(LOGDIR) 2>/dev/null || true

# Fills vendor/ with the crates, for a build without a network: see vendor/README.md.
vendor:
	CARGO="$(CARGO)" scripts/vendor

dist:
	CARGO="$(CARGO)" scripts/dist

clean:
	$(CARGO) clean

.PHONY: all cares-bundled cares-system deps demo check check-faults soak footprint bench bench-report install uninstall vendor dist clean
